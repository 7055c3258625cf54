package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// keptAnswers counts what is kept in the private part of the volume.
func (p *pod) keptAnswers() int {
	p.t.Helper()
	kept, err := filepath.Glob(filepath.Join(p.dir, "private", keptAnswer+"*"))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(kept)
}

// kill ends a container as SIGKILL does, and returns its pod.
func (p *pod) kill(c *container) *pod {
	p.t.Helper()
	dead := p.killed()
	p.vault.set(func() { p.vault.cut = true }) // a killed one revokes nothing
	_ = c.terminate()
	p.vault.set(func() { p.vault.cut = false })
	return dead
}

// However often the agent is killed, there is one login, one lease and one
// certificate.
func TestRestartsWithLease(t *testing.T) {
	for name, fixed := range map[string]bool{"renewable": false, "not renewable": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"), env("db.env", "kv/app"), certificate("tls"))
				p.conf.Notify = notifyApp[:1]
				p.issues(1000 * time.Hour)
				p.vault.engines["db/creds/app"].fixed = fixed
				c := p.start()
				after(time.Second)
				for range 50 {
					p = p.kill(c)
					c = p.start()
					after(time.Second)
					p.wantReady()
				}
				calls := p.vault.taken()
				if p.vault.minted != 1 || p.vault.given() != 1 || count(calls, callIssue) != 1 || p.file("user") != "user-1" {
					t.Errorf("%d logins, %d leases, %d certificates, the file holds %q", p.vault.minted, p.vault.given(), count(calls, callIssue), p.file("user"))
				}
				if n := count(calls, callLease); fixed && n != 0 || !fixed && n != 50 {
					t.Errorf("renewed %d times", n)
				}
				if _, tries := p.app.taken(); tries != 0 {
					t.Errorf("the app was told %d times of nothing", tries)
				}
				p.wantWorking("user", 5*time.Hour, time.Minute)
				c.terminate()
			})
		})
	}
}

// Killed at any call of its start, before Vault got it: the next run goes on with
// all that the calls before have brought.
func TestKilledAtEveryCall(t *testing.T) {
	for n, done := 1, false; !done; n++ {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, leased("user"), env("db.env", "kv/app"), certificate("tls"))
			p.issues(1000 * time.Hour)
			var mu sync.Mutex
			calls := 0
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				calls++
				dies := calls >= n
				mu.Unlock()
				return dies && says(503, nil, `{"errors":["Vault is sealed"]}`)(w, r)
			}
			c := p.start()
			after(time.Second)
			done = calls < n
			p = p.kill(c)
			p.vault.set(func() { p.vault.fault = nil })
			c = p.start()
			after(time.Second)
			p.wantReady()
			if p.vault.minted != 1 || p.vault.given() != 1 || !strings.HasPrefix(p.file("tls/tls.crt"), "cert 1 ") || !p.vault.works(p.file("user")) {
				t.Errorf("killed at call %d: %d logins, %d leases, the file holds %q", n, p.vault.minted, p.vault.given(), p.file("user"))
			}
			c.terminate()
		})
	}
}

// Killed right after another login, before its leases were replaced: the next run
// replaces them once.
func TestKilledAfterLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		p.vault.role.max = 3 * time.Hour
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return p.vault.minted == 2 && r.URL.Path == "/v1/db/creds/app" && hang(w, r)
		}
		c := p.start()
		for p.vault.minted < 2 {
			after(time.Second)
		}
		p = p.kill(c)
		p.vault.set(func() { p.vault.fault = nil })
		c = p.start()
		after(time.Second)
		if p.vault.minted != 2 || p.vault.given() != 2 || p.file("user") != "user-2" {
			t.Errorf("%d logins, %d leases, the file holds %q", p.vault.minted, p.vault.given(), p.file("user"))
		}
		c.terminate()
	})
}

// What an earlier run has left is not good for ever.
func TestRestartWithoutUse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *pod)
		user   string
		tokens int
	}{
		"token revoked":   {func(p *pod) { p.vault.tokens[tokenPrefix+"1"].revoked = true }, "user-2", 2},
		"lease revoked":   {func(p *pod) { delete(p.vault.leases, "db/creds/app/1") }, "user-2", 1},
		"another role":    {func(p *pod) { p.conf.Vault.Auth.Mount = "other" }, "user-2", 2},
		"database down":   {func(p *pod) { p.vault.engines["db/creds/app"].down = true }, "user-1", 1},
		"long ago":        {func(*pod) { time.Sleep(25 * time.Hour) }, "user-2", 2},
		"no renewals now": {func(p *pod) { p.vault.role.fixed = true; p.vault.engines["db/creds/app"].fixed = true }, "user-1", 1},
	} {
		for _, lifecycle := range []string{config.Native, config.Init} {
			t.Run(name+" "+lifecycle, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPod(t, leased("user"))
					p.conf.Lifecycle = lifecycle
					p.vault.role = fakeRole{ttl: 24 * time.Hour, max: 24 * time.Hour}
					run := p.start()
					after(time.Second)
					if lifecycle == config.Native {
						p = p.kill(run)
					}
					c.change(p)
					run = p.start()
					after(time.Second)
					p.wantReady()
					if p.file("user") != c.user || p.vault.minted != c.tokens {
						t.Errorf("the file holds %q, %d logins", p.file("user"), p.vault.minted)
					}
					if n := p.keptAnswers(); n != 1 {
						t.Errorf("%d answers are kept", n)
					}
					if lifecycle == config.Native {
						run.terminate()
					}
				})
			})
		}
	}
}

// What no entry asks for any more is not kept.
func TestAnswerOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "user", Template: `{{ with secret "kv/app" }}{{ if eq .Data.data.username "ada" }}{{ with secret "db/creds/app" }}{{ .Data.username }}{{ end }}{{ end }}{{ end }}`})
		c := p.start()
		after(time.Second)
		if p.keptAnswers() != 1 || p.file("user") != "user-1" {
			t.Errorf("%d answers are kept, the file holds %q", p.keptAnswers(), p.file("user"))
		}
		v2(p.vault, "kv/data/app", map[string]any{"username": "eve"})
		after(6 * time.Minute)
		if p.keptAnswers() != 0 || p.file("user") != "" {
			t.Errorf("%d answers are kept, the file holds %q", p.keptAnswers(), p.file("user"))
		}
		p.vault.taken()
		after(time.Hour)
		if n := count(p.vault.taken(), callLease); n != 0 {
			t.Errorf("a lease of nobody was renewed %d times", n)
		}
		c.terminate()
	})
}

// A start that comes to nothing leaves its token and lease for the next.
func TestGivenUpWithLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"), env("db.env", "kv/nope"))
		for range 5 {
			if err := <-p.start().result; err == nil {
				t.Error("no error")
			}
		}
		p.vault.set(func() { v2(p.vault, "kv/data/nope", map[string]any{"k": "v"}) })
		c := p.start()
		after(time.Second)
		p.wantReady()
		if p.vault.minted != 1 || p.vault.given() != 1 {
			t.Errorf("%d logins, %d leases", p.vault.minted, p.vault.given())
		}
		c.terminate()
	})
}

// A token of few uses takes no lease with it: it is refused, and revoked.
func TestLeaseOfLimitedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		p.vault.role.uses = 20
		err := <-p.start().result
		if want := `asking for "db/creds/app": the answer has a lease, which ends with the token, and the role's tokens have 20 uses (set the role's token_num_uses to 0)`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
		if p.vault.given() != 1 || fmt.Sprint(p.vault.revoked) != "[db/creds/app/1]" {
			t.Errorf("%d leases, revoked %q", p.vault.given(), p.vault.revoked)
		}
	})
}

// An agent that is started again when its token is about to end replaces it before
// it has read anything. The old one's leases are in use all the same: it is revoked
// the grace after the app was told.
func TestRestartAtTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"), env("db.env", "kv/app"))
		p.conf.Notify = notifyApp[:1]
		p.vault.role.max = 3 * time.Hour
		run := p.start()
		after(2*time.Hour + 50*time.Minute)
		p = p.kill(run)
		after(6 * time.Minute)
		if p.vault.minted != 1 {
			t.Fatalf("%d tokens", p.vault.minted)
		}
		// Its end by itself must not hide a revocation.
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].expires = time.Now().Add(time.Hour) })
		run = p.start()
		for range 4 * 60 {
			after(time.Second)
			if !p.vault.works("user-1") {
				t.Fatal("an open session is cut before the grace is over")
			}
		}
		if p.file("user") != "user-2" {
			t.Errorf("the file holds %q", p.file("user"))
		}
		run.terminate()
	})
}

// A clock that is set back makes no lease wait for its renewal until it has ended.
func TestClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		run := p.start()
		after(time.Second)
		// As if what was noted had been noted by a clock that was ahead.
		names, err := filepath.Glob(filepath.Join(p.dir, "private", keptAnswer+"*"))
		if err != nil || len(names) != 1 {
			t.Fatalf("%q is kept (%v)", names, err)
		}
		data, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		var was answer
		if err := json.Unmarshal(data, &was); err != nil {
			t.Fatal(err)
		}
		const ahead = 2 * time.Hour
		was.End, was.Renew, was.Again = was.End.Add(ahead), was.Renew.Add(ahead), was.Again.Add(ahead)
		if data, err = json.Marshal(was); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(names[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		p.wantWorking("user", 3*time.Hour, time.Minute)
		run.terminate()
	})
}
