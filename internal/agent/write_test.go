package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const callIssue = "PUT pki/issue/app"

// issues makes the fake issue numbered certificates of a life, or of none.
func (p *pod) issues(life time.Duration) {
	n := 0
	p.vault.mounts["pki/"] = "pki"
	p.vault.writes["pki/issue/app"] = func(data map[string]any) map[string]any {
		n++
		made := map[string]any{"certificate": fmt.Sprint("cert ", n, " of ", data["common_name"]), "private_key": fmt.Sprint("key ", n, " ", fixturePassword), "serial": json.Number(fixtureNumber)}
		if life > 0 {
			made["expiration"] = time.Now().Add(life).Unix()
		}
		return map[string]any{"data": made}
	}
}

func certificate(dir string) config.File {
	return config.File{Path: dir, Secret: "pki/issue/app", Data: map[string]any{"common_name": "app.shop.svc", "ttl": "24h"},
		Files: map[string]string{"tls.crt": "certificate", "tls.key": "private_key"}}
}

// A write is done once, whoever shares it and however often the agent is
// started, until two thirds of the life that its answer states are over.
func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serial := certificate("serial")
		serial.Files, serial.Format, serial.Key = nil, "raw", "serial"
		p := newPod(t, certificate("tls"), serial, env("db.env", "kv/app"))
		p.issues(24 * time.Hour)
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callLogin, callMount, callRead, callIssue)
		both := func() string { return p.file("tls/tls.crt") + ", " + p.file("tls/tls.key") }
		if got := both(); got != "cert 1 of app.shop.svc, key 1 "+fixturePassword {
			t.Errorf("got %q", got)
		}
		if got := p.file("serial"); got != fixtureNumber {
			t.Errorf("the number became %q", got)
		}
		after(13 * time.Hour)
		if n := count(p.vault.taken(), callIssue); n != 0 {
			t.Errorf("issued %d times more", n)
		}
		for range 2 {
			c.terminate()
			c = p.start()
			after(time.Minute)
			p.wantReady()
		}
		if got := p.file("serial"); got != fixtureNumber {
			t.Errorf("started again, the number became %q", got)
		}
		if n := count(p.vault.taken(), callIssue); n != 0 || !strings.HasPrefix(both(), "cert 1 ") {
			t.Errorf("started again: issued %d times, %q", n, both())
		}
		after(3*time.Hour + 30*time.Minute)
		if n := count(p.vault.taken(), callIssue); n != 1 || both() != "cert 2 of app.shop.svc, key 2 "+fixturePassword {
			t.Errorf("near its end: issued %d times, %q", n, both())
		}
		// Vault is away when it is due: the old one stays, and the new one comes.
		after(10 * time.Hour)
		p.vault.set(func() { p.vault.cut = true })
		after(6 * time.Hour)
		p.vault.set(func() { p.vault.cut = false })
		if !strings.HasPrefix(both(), "cert 2 ") {
			t.Errorf("in the outage: %q", both())
		}
		after(5 * time.Minute)
		if !strings.HasPrefix(both(), "cert 3 ") {
			t.Errorf("after the outage: %q", both())
		}
		c.terminate()
	})
}

// Without an end there is one write, or one at each interval that is stated.
func TestWriteInterval(t *testing.T) {
	for refresh, want := range map[time.Duration][2]int{0: {0, 0}, time.Hour: {9, 11}} {
		t.Run(refresh.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := certificate("tls")
				f.Refresh = config.Duration(refresh)
				p := newPod(t, f)
				p.issues(0)
				c := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.taken()
				after(10*time.Hour + 5*time.Minute)
				if n := count(p.vault.taken(), callIssue); n < want[0] || n > want[1] {
					t.Errorf("issued %d times, want %d to %d", n, want[0], want[1])
				}
				c.terminate()
			})
		})
	}
}

// What Vault says of a write is told as for a read.
func TestWriteProblems(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		want  string
	}{
		"denied":     {says(403, nil, `{"errors":["permission denied"]}`), `writing "pki/issue/app": permission denied (403) (a policy of role "payments" must allow update on it)`},
		"bad":        {says(400, nil, `{"errors":["unknown role: app"]}`), `writing "pki/issue/app": unknown role: app (400)`},
		"redirected": {says(307, nil, ``), `answered 307 Temporary Redirect, which is not followed`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, certificate("tls"))
				p.issues(0)
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/v1/pki/") && c.fault(w, r)
				}
				run := p.start()
				after(time.Second)
				if _, reason := p.ready(); !strings.Contains(reason, c.want) {
					t.Errorf("got %q", reason)
				}
				p.vault.set(func() { p.vault.fault = nil })
				after(11 * time.Second)
				p.wantReady()
				run.terminate()
			})
		})
	}
}

// A write whose answer cannot be published is not repeated, since each one may
// make something, and what hangs on the token goes with it.
func TestWriteWithoutUse(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		want  string
	}{
		"token":   {says(200, nil, `{"auth":{"client_token":"hvs.child","lease_duration":2764800}}`), "answered with a token (a path whose answer has data)"},
		"both":    {says(200, nil, `{"auth":{"client_token":"hvs.child"},"data":{"a":"b"}}`), "answered with a token (a path whose answer has data)"},
		"wrapped": {says(200, nil, `{"wrap_info":{"token":"t","ttl":60}}`), "answered with a wrapped secret (a path whose answer has data)"},
		"204":     {says(204, nil, ``), "answered 204 without data (a path whose answer has data)"},
		"no data": {says(200, nil, `{"data":{}}`), "answered 200 without data (a path whose answer has data)"},
		"endless": {says(200, nil, `{"data":"`+strings.Repeat("x", maxAnswer)+`"}`), "the answer is longer than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, certificate("tls"), env("db.env", "kv/app"))
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/v1/pki/") && c.fault(w, r)
				}
				err := <-p.start().result
				if err == nil || !strings.Contains(err.Error(), `path "tls": writing "pki/issue/app": `+c.want) {
					t.Errorf("got %v", err)
				}
				if n := count(p.vault.taken(), callIssue); n != 1 {
					t.Errorf("written %d times", n)
				}
				if p.vault.good() != 0 || p.kept("token.json") {
					t.Error("the token is left, and what hangs on it")
				}
			})
		})
	}
}

// A path that has answered with data before is written again.
func TestWriteWithoutUseOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, certificate("tls"))
		p.issues(24 * time.Hour)
		c := p.start()
		after(14 * time.Hour)
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/v1/pki/") && says(204, nil, ``)(w, r)
			}
		})
		after(3 * time.Hour)
		if n := count(p.vault.taken(), callIssue); n < 2 || n > 40 {
			t.Errorf("written %d times", n)
		}
		p.vault.set(func() { p.vault.fault = nil })
		after(6 * time.Minute)
		if got := p.file("tls/tls.crt"); !strings.HasPrefix(got, "cert 2 ") {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// When a certificate is renewed depends on the life that it was given, not on
// the node's clock.
func TestWriteWithClocksApart(t *testing.T) {
	for name, c := range map[string]struct {
		date, end   time.Duration // from the node's clock
		silent      bool          // the answer has no date
		least, most int           // issued in 16 hours
	}{
		"together":         {0, 24 * time.Hour, false, 1, 1},
		"node is ahead":    {-25 * time.Hour, -time.Hour, false, 1, 1},
		"node is behind":   {25 * time.Hour, 49 * time.Hour, false, 1, 1},
		"over":             {0, -time.Minute, false, 150, 250}, // at each interval of five minutes
		"over, no date":    {0, -time.Minute, true, 150, 250},
		"without any date": {0, 24 * time.Hour, true, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, certificate("tls"))
				p.conf.Notify = notifyApp[:1]
				p.issues(time.Hour)
				issue := p.vault.writes["pki/issue/app"]
				p.vault.writes["pki/issue/app"] = func(data map[string]any) map[string]any {
					made := issue(data)
					made["data"].(map[string]any)["expiration"] = time.Now().Add(c.end).Unix()
					return made
				}
				p.vault.fault = func(w http.ResponseWriter, _ *http.Request) bool {
					if !c.silent {
						w.Header().Set("Date", time.Now().Add(c.date).UTC().Format(http.TimeFormat))
					}
					return false
				}
				run := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.taken()
				after(16*time.Hour + 30*time.Minute)
				if n := count(p.vault.taken(), callIssue); n < c.least || n > c.most {
					t.Errorf("issued %d times more, want %d to %d", n, c.least, c.most)
				}
				if warned := strings.Contains(p.logs.String(), "an end that is over"); warned != (c.end < 0 && c.date == 0) {
					t.Errorf("warned: %v", warned)
				}
				run.terminate()
			})
		})
	}
}

// A volume without room does not make the agent write again and again, and when
// there is room the answer is kept.
func TestWriteThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tls := certificate("tls")
		p := newPod(t, tls)
		p.issues(0)
		c := p.start()
		after(time.Second)
		c.terminate()
		p.vault.taken()
		kept, err := filepath.Glob(filepath.Join(p.dir, "private", "answer-*"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("kept %q: %v", kept, err)
		}
		// The name is taken, and the entry cannot be rendered: a round after the
		// other comes to nothing.
		if err := errors.Join(os.Remove(kept[0]), os.Mkdir(kept[0], 0o700)); err != nil {
			t.Fatal(err)
		}
		tls.Files["other"] = "no such key"
		c = p.start()
		after(30 * time.Minute)
		if n := count(p.vault.taken(), callIssue); n != 1 {
			t.Errorf("issued %d times", n)
		}
		if n := strings.Count(p.logs.String(), "keeping an answer for a restart"); n != 1 {
			t.Errorf("told %d times that it is not kept", n)
		}
		if err := os.Remove(kept[0]); err != nil {
			t.Fatal(err)
		}
		after(10 * time.Minute)
		if info, err := os.Stat(kept[0]); err != nil || !info.Mode().IsRegular() {
			t.Errorf("not kept although there is room: %v %v", info, err)
		}
		c.terminate()
	})
}
