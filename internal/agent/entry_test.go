package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// gone reports whether there is no file of a name as the app sees it.
func (p *pod) gone(name string) bool {
	_, err := os.Lstat(filepath.Join(p.dir, "out", name))
	return os.IsNotExist(err)
}

// One answer becomes several files, which change together or not at all.
func TestFilesOfOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "tls", Secret: "kv/app", Files: map[string]string{"user": "username", "sub/pass": "password"}}, env("other", "kv/other"))
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callLogin, callMount, callRead, "GET kv/data/other")
		both := func() string { return p.file("tls/user") + ":" + p.file("tls/sub/pass") }
		if got := both(); got != "ada:"+fixturePassword {
			t.Errorf("got %q", got)
		}
		p.vault.set(func() {
			v2(p.vault, "kv/data/app", map[string]any{"username": "eve"})
			v2(p.vault, "kv/data/other", map[string]any{"moved": "on"})
		})
		after(6 * time.Minute)
		if got := both(); got != "ada:"+fixturePassword || p.file("other") != "moved='on'\n" {
			t.Errorf("with a key missing: %q, other: %q", got, p.file("other"))
		}
		p.vault.set(func() { v2(p.vault, "kv/data/app", map[string]any{"username": "eve", "password": "2"}) })
		after(6 * time.Minute)
		if got := both(); got != "eve:2" {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// A file whose secret need not exist comes and goes with it; anything else that
// fails is no absence.
func TestOptional(t *testing.T) {
	template := `{{ with secret "kv/app" }}{{ .Data.data.username }}{{ end }}{{ with secret "kv/maybe" }}{{ .Data.data.k }}{{ end }}`
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("must", "kv/app"),
			config.File{Path: "may", Secret: "kv/maybe", Format: "env", Optional: true},
			config.File{Path: "dir", Secret: "kv/maybe", Files: map[string]string{"k": "k"}, Optional: true},
			config.File{Path: "text", Template: template, Optional: true})
		c := p.start()
		after(0)
		p.wantReady()
		optional := []string{"may", "dir", "text"}
		absent := func(when string, want bool) {
			t.Helper()
			for _, name := range optional {
				if p.gone(name) != want {
					t.Errorf("%s: %s is gone: %v", when, name, p.gone(name))
				}
			}
			if p.gone("must") {
				t.Errorf("%s: the required file is gone", when)
			}
		}
		absent("at start", true)
		p.vault.set(func() { v2(p.vault, "kv/data/maybe", map[string]any{"k": "v"}) })
		after(6 * time.Minute)
		absent("when it comes", false)
		if got := p.file("may") + p.file("dir/k") + p.file("text"); got != "k='v'\nvadav" {
			t.Errorf("got %q", got)
		}
		for _, fault := range []func(http.ResponseWriter, *http.Request) bool{
			says(500, nil, `{"errors":["internal error"]}`), says(403, nil, `{"errors":["permission denied"]}`), says(200, nil, `{}`),
		} {
			p.vault.set(func() {
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return r.URL.Path == "/v1/kv/data/maybe" && fault(w, r)
				}
			})
			after(6 * time.Minute)
			absent("when it cannot be read", false)
		}
		p.vault.set(func() { p.vault.fault = nil; delete(p.vault.secrets, "kv/data/maybe") })
		after(6 * time.Minute)
		absent("when it goes", true)
		p.wantReady()
		c.terminate()
	})
}

// At the start, too, only a secret that does not exist is left out.
func TestOptionalAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "may", Secret: "kv/app", Format: "env", Optional: true})
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/kv/data/app" && says(403, nil, `{"errors":["permission denied"]}`)(w, r)
		}
		if err := <-p.start().result; err == nil || !strings.Contains(err.Error(), "a policy of role") {
			t.Errorf("got %v", err)
		}
	})
}

// Entries are read at their own intervals, and what shares a secret with one at
// that one's: two files of one secret never disagree.
func TestRefreshOfEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		often := env("often", "kv/app")
		often.Refresh = config.Duration(10 * time.Second)
		rare := config.File{Path: "rare", Template: `{{ with secret "old/app" }}{{ .Data.username }}{{ end }}`, Refresh: config.Duration(time.Hour)}
		p := newPod(t, often, config.File{Path: "shares", Template: `{{ with secret "kv/data/app" }}{{ index .Data.data "n" }}{{ end }}`, Refresh: config.Duration(time.Hour)},
			rare, env("usual", "kv/other"))
		v2(p.vault, "kv/data/app", map[string]any{"n": "0"})
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.taken()
		after(100 * time.Minute)
		calls := p.vault.taken()
		for call, want := range map[string][2]int{callRead: {540, 670}, "GET kv/data/other": {18, 23}, "GET old/app": {1, 1}} {
			if n := count(calls, call); n < want[0] || n > want[1] {
				t.Errorf("%s: %d times, want %d to %d", call, n, want[0], want[1])
			}
		}
		p.vault.set(func() { v2(p.vault, "kv/data/app", map[string]any{"n": "1"}) })
		after(12 * time.Second)
		if got := p.file("often") + p.file("shares"); got != "n='1'\n1" {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// An entry that keeps failing is tried again by itself, and costs the others no
// reads.
func TestFailingEntryIsTriedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("a", "kv/app"), env("b", "kv/other"))
		p.conf.Refresh = config.Duration(time.Hour)
		c := p.start()
		after(time.Second)
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/other" && says(500, nil, `{"errors":["internal error"]}`)(w, r)
			}
		})
		p.vault.taken()
		after(2 * time.Hour)
		calls := p.vault.taken()
		if a, b := count(calls, callRead), count(calls, "GET kv/data/other"); a > 2 || b < 30 || b > 150 {
			t.Errorf("read the good one %d times, the failing one %d times", a, b)
		}
		p.vault.set(func() { p.vault.fault = nil; v2(p.vault, "kv/data/other", map[string]any{"k": "healed"}) })
		after(2*time.Minute + time.Second)
		if got := p.file("b"); got != "k='healed'\n" {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// A new token that a lasting denial led to is tried at once on what was denied,
// not at the next interval.
func TestDeniedIsReadAgainUnderNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("other", "kv/other"))
		p.conf.Refresh = config.Duration(time.Hour)
		c := p.start()
		after(time.Second)
		p.vault.set(func() {
			v2(p.vault, "kv/data/app", map[string]any{"a": "new"})
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/app" && r.Header.Get("X-Vault-Token") == tokenPrefix+"1" && says(403, nil, `{"errors":["permission denied"]}`)(w, r)
			}
		})
		p.vault.taken()
		after(67 * time.Minute)
		if got := p.file("db.env"); got != "a='new'\n" || p.vault.minted != 2 {
			t.Errorf("%d tokens, file holds %q", p.vault.minted, got)
		}
		if n := count(p.vault.taken(), "GET kv/data/other"); n != 1 {
			t.Errorf("what was good was read %d times", n)
		}
		c.terminate()
	})
}
