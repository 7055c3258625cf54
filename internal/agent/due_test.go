package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// static makes the fake rotate the password of a static role every so often;
// late is how long after its time the password is another.
func (p *pod) static(every, late time.Duration) {
	began := time.Now()
	p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/db/static-creds/app" {
			return false
		}
		p.vault.mu.Lock()
		defer p.vault.mu.Unlock()
		since := time.Since(began)
		rotated := max(since-late, 0) / every
		reply(w, map[string]any{"data": map[string]any{
			"username": "app", "password": fmt.Sprint("password-", int(rotated)), "rotation_period": int(every.Seconds()),
			"last_vault_rotation": began.Add(rotated * every).Format(time.RFC3339Nano), "ttl": int((every - since%every).Seconds()),
		}})
		return true
	}
}

// A static role's password is read again when it is rotated, and until it is
// another; not more often than that.
func TestStaticRole(t *testing.T) {
	for late, most := range map[time.Duration]int{0: 2, 20 * time.Second: 11} {
		const soon = 10 * time.Second // of full seconds and pauses
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, config.File{Path: "password", Secret: "db/static-creds/app", Format: config.FormatRaw, Key: "password", Refresh: config.Duration(24 * time.Hour)})
				p.static(time.Hour, late)
				c := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.taken()
				for i := range 5 {
					after(time.Until(time.Date(2000, 1, 1, i+1, 0, 0, 0, time.UTC)) + late + soon)
					if got, want := p.file("password"), fmt.Sprint("password-", i+1); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				if n := count(p.vault.taken(), "GET db/static-creds/app"); n < 5 || n > 5*most {
					t.Errorf("read %d times", n)
				}
				c.terminate()
			})
		})
	}
}

// A rotation that does not happen makes nobody busy.
func TestStaticRoleIsNotRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "password", Secret: "db/static-creds/app", Format: config.FormatRaw, Key: "password"})
		p.static(time.Minute, 1000*time.Hour)
		c := p.start()
		after(10 * time.Hour)
		p.wantReady()
		if n := count(p.vault.taken(), "GET db/static-creds/app"); n > 10*80 {
			t.Errorf("read %d times", n)
		}
		c.terminate()
	})
}

// A version with an end is read again when that is over, by the server's clock: a
// required file stays, an optional one goes, and both come back.
func TestVersionWithEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		may := env("may", "kv/app")
		may.Optional = true
		p := newPod(t, may, env("must", "kv/app"))
		p.conf.Refresh = config.Duration(24 * time.Hour)
		const ahead = 3 * time.Hour // the server's clock
		version := func(life time.Duration) {
			end := time.Now().Add(life)
			p.vault.set(func() {
				v2(p.vault, "kv/data/app", map[string]any{"k": life.String()})
				p.vault.secrets["kv/data/app"]["data"].(map[string]any)["metadata"] = map[string]any{"version": 1, "deletion_time": end.Add(ahead).Format(time.RFC3339Nano)}
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
					return r.URL.Path == "/v1/kv/data/app" && time.Now().After(end) && says(404, nil, `{"data":{"data":null,"metadata":{"version":1,"deletion_time":"x"}}}`)(w, r)
				}
			})
		}
		version(time.Hour)
		c := p.start()
		after(59 * time.Minute)
		if p.file("may") != "k='1h0m0s'\n" {
			t.Errorf("got %q", p.file("may"))
		}
		p.vault.taken()
		after(70 * time.Second)
		if !strings.HasPrefix(p.file("may"), "no file: ") || p.file("must") != "k='1h0m0s'\n" || !c.agent.entries[1].missing {
			t.Errorf("got %q and %q", p.file("may"), p.file("must"))
		}
		p.wantReady()
		version(time.Minute) // back to version 1, with other bytes
		after(27 * time.Hour)
		if p.file("must") != "k='1m0s'\n" && p.file("must") != "k='1h0m0s'\n" {
			t.Errorf("got %q", p.file("must"))
		}
		version(48 * time.Hour)
		after(27 * time.Hour)
		if p.file("may") != "k='48h0m0s'\n" || p.file("must") != p.file("may") {
			t.Errorf("got %q and %q", p.file("may"), p.file("must"))
		}
		c.terminate()
	})
}

// What says how long it is good for is read again before that is over; KV v1's
// hint of 32 days keeps nobody from reading it at its interval.
func TestTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("oidc", "old/oidc"), env("kv1", "old/app"), env("tiny", "old/tiny"))
		p.vault.secrets["old/oidc"] = map[string]any{"data": map[string]any{"ttl": json.Number("60")}}
		p.vault.secrets["old/tiny"] = map[string]any{"data": map[string]any{"ttl": json.Number("1")}}
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.taken()
		after(time.Hour)
		calls := p.vault.taken()
		for call, want := range map[string][2]int{"GET old/oidc": {85, 125}, "GET old/app": {10, 14}, "GET old/tiny": {600, 730}} {
			if n := count(calls, call); n < want[0] || n > want[1] {
				t.Errorf("%s: %d times, want %d to %d", call, n, want[0], want[1])
			}
		}
		c.terminate()
	})
}

// A quota on one path holds up no other, and is left alone for as long as Vault
// asks.
func TestQuotaOfOnePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("a", "kv/app"), env("b", "kv/other"), leased("user"))
		p.conf.Refresh = config.Duration(time.Minute)
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/app" && says(429, http.Header{"Retry-After": {"600"}}, `{"errors":["rate limit quota exceeded"]}`)(w, r)
			}
			v2(p.vault, "kv/data/other", map[string]any{"k": "moved on"})
		})
		p.vault.taken()
		after(time.Hour)
		calls := p.vault.taken()
		if n := count(calls, callRead); n < 3 || n > 7 {
			t.Errorf("the limited path was read %d times", n)
		}
		if n := count(calls, "GET kv/data/other"); n < 50 || p.file("b") != "k='moved on'\n" {
			t.Errorf("the other was read %d times and holds %q", n, p.file("b"))
		}
		p.wantWorking("user", time.Hour, time.Minute)
		c.terminate()
	})
}

// What Vault wants left alone for a while keeps nothing busy when the token is
// replaced meanwhile.
func TestNewTokenWhileEntryRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"), env("db.env", "kv/app"))
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/sys/leases/renew" && says(429, http.Header{"Retry-After": {"1200"}}, `{"errors":["rate limit quota exceeded"]}`)(w, r)
		}
		c := p.start()
		after(time.Second)
		var rounds atomic.Int64
		c.agent.rest = func() {
			if rounds.Add(1) > 1000 {
				panic("the agent is busy with nothing")
			}
		}
		after(11 * time.Minute)
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = true })
		was := rounds.Load()
		after(10 * time.Minute)
		if n := rounds.Load() - was; p.vault.minted != 2 || n > 20 {
			t.Errorf("%d rounds in ten minutes, %d tokens", n, p.vault.minted)
		}
		after(20 * time.Minute)
		if got := p.file("user"); got != "user-2" {
			t.Errorf("the file holds %q", got)
		}
		c.terminate()
	})
}
