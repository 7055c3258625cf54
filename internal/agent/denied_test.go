package agent

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// A policy that is added to a role reaches only new tokens: a lasting denial
// leads to a login after ten minutes, and ever more seldom.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"))
		c := p.start()
		after(time.Second)
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/app" && says(403, nil, `{"errors":["permission denied"]}`)(w, r)
			}
			p.vault.secrets["kv/data/other"]["data"].(map[string]any)["data"] = map[string]any{"key": "changed"}
		})
		p.vault.taken()
		after(2 * time.Hour)
		if n := count(p.vault.taken(), callLogin); n < 2 || n > 3 {
			t.Errorf("%d logins in two hours", n)
		}
		if got := p.file("db.env"); got != appEnv {
			t.Errorf("the denied file holds %q", got)
		}
		if got := p.file("other.env"); got != "key='changed'\n" {
			t.Errorf("the other file holds %q", got)
		}
		c.terminate()
	})
}

// A denial that lasts for days mints tokens that live for weeks: they do not
// pile up, also where another file's reads fail in a way that may pass.
func TestDeniedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"))
		p.vault.role = fakeRole{ttl: 768 * time.Hour, max: 768 * time.Hour}
		c := p.start()
		after(time.Second)
		denied := says(403, nil, `{"errors":["permission denied"]}`)
		broken := says(500, nil, `{"errors":["internal error"]}`)
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/app" && denied(w, r)
			}
		})
		after(24 * time.Hour)
		if p.vault.minted < 5 || p.vault.minted > 9 || p.vault.good() != 1 {
			t.Errorf("%d of %d tokens are good after a day of denial", p.vault.good(), p.vault.minted)
		}
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/app" && denied(w, r) || r.URL.Path == "/v1/kv/data/other" && broken(w, r)
			}
		})
		after(24 * time.Hour)
		if p.vault.good() > 2 {
			t.Errorf("%d of %d tokens are good after a day of denial and errors", p.vault.good(), p.vault.minted)
		}
		c.terminate()
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
	})
}

// Where the replaced token would stay good, a denial replaces none: with one
// that apps may be using, and where Vault does not let the agent revoke it.
func TestDeniedWithoutRevocation(t *testing.T) {
	for name, c := range map[string]struct {
		file  *config.TokenFile
		fixed bool // the role may not revoke
		most  int  // tokens
	}{
		"token file":    {&config.TokenFile{Path: "token", Mode: 0o400}, false, 1},
		"no revocation": {nil, true, 3}, // the first replaced one told
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"))
				p.conf.TokenFile, p.conf.Notify = c.file, notifyApp
				p.vault.role = fakeRole{ttl: 768 * time.Hour, max: 768 * time.Hour}
				run := p.start()
				after(time.Second)
				denied := says(403, nil, `{"errors":["permission denied"]}`)
				p.vault.set(func() {
					p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
						return (r.URL.Path == "/v1/kv/data/other" || c.fixed && r.URL.Path == "/v1/auth/token/revoke-self") && denied(w, r)
					}
				})
				after(48 * time.Hour)
				if p.vault.minted > c.most {
					t.Errorf("%d tokens, %d of them good, after two days of denial", p.vault.minted, p.vault.good())
				}
				if heard, _ := p.app.taken(); len(heard) != 0 {
					t.Errorf("apps were told %d times of nothing new", len(heard))
				}
				if !strings.Contains(p.logs.String(), "delete the pod to have it at once") {
					t.Error("the log does not say how a new policy reaches the pod")
				}
				run.terminate()
			})
		})
	}
}

// A denial that is over is forgotten: the next one is met by a login as early as
// the first.
func TestDeniedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		for range 2 {
			after(time.Hour)
			p.vault.taken()
			p.vault.set(func() {
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return r.URL.Path == "/v1/kv/data/app" && says(403, nil, `{"errors":["permission denied"]}`)(w, r)
				}
			})
			after(3 * time.Hour)
			if n := count(p.vault.taken(), callLogin); n < 3 || n > 5 {
				t.Errorf("%d logins in three hours", n)
			}
			p.vault.set(func() { p.vault.fault = nil })
		}
		c.terminate()
	})
}
