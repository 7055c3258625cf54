package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Killed between the note of the revocation and the closing of the gate: the
// next start does as after the whole of it.
func TestStartAfterInterruptedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		dead := p.killed()
		c.terminate()
		p.vault.taken()
		p = dead
		if err := os.WriteFile(filepath.Join(p.dir, "private", "revoked"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if ok, _ := p.ready(); ok {
			t.Error("ready with what was revoked")
		}
		c = p.start()
		after(time.Second)
		p.wantReady()
		p.wantCalls(callRenew, callLogin, callMount, callRead)
		c.terminate()
	})
}

// Started again after SIGTERM while one secret is gone: it keeps its last good
// bytes, and holds back neither the other files nor apps that start.
func TestStartWithLastGoodFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"))
		c := p.start()
		after(time.Second)
		c.terminate()
		p.vault.set(func() { delete(p.vault.secrets, "kv/data/other") })
		v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
		c = p.start()
		after(time.Second)
		p.wantReady()
		if p.file("db.env") != "a='2'\n" || p.file("other.env") != "key='other'\n" {
			t.Errorf("the files hold %q and %q", p.file("db.env"), p.file("other.env"))
		}
		v2(p.vault, "kv/data/app", map[string]any{"a": "3"})
		after(6 * time.Minute)
		if got := p.file("db.env"); got != "a='3'\n" {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// An app that starts waits for a file that there never was; apps that run get
// the others meanwhile, and are told.
func TestStartWithoutLastGoodFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := env("other.env", "kv/other")
		other.Optional = true
		p := newPod(t, env("db.env", "kv/app"), other)
		p.conf.Notify = notifyApp[:1]
		p.vault.set(func() { delete(p.vault.secrets, "kv/data/other") })
		c := p.start()
		after(time.Second)
		p.wantReady()
		c.terminate()
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/kv/data/other" && says(500, nil, `{"errors":["internal error"]}`)(w, r)
			}
		})
		v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
		c = p.start()
		after(5 * time.Minute)
		if ok, reason := p.ready(); ok || !strings.Contains(reason, `path "other.env"`) {
			t.Errorf("ready %v, %q", ok, reason)
		}
		if got, err := os.ReadFile(filepath.Join(p.dir, "files", "db.env")); string(got) != "a='2'\n" {
			t.Errorf("apps that run see %q (%v)", got, err)
		}
		p.wantHeard(appURL)
		p.vault.set(func() { p.vault.fault = nil })
		after(2 * time.Minute)
		p.wantReady()
		c.terminate()
	})
}

// Started again and again after SIGTERM while nothing can be read: one token
// serves all of these runs.
func TestRestartsAfterRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		c.terminate()
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/v1/kv/") && says(503, nil, `{"errors":["Vault is sealed"]}`)(w, r)
			}
		})
		for range 5 {
			c = p.start()
			after(time.Second)
			dead := p.killed()
			p.vault.set(func() { p.vault.cut = true }) // a killed one revokes nothing
			c.terminate()
			p.vault.set(func() { p.vault.cut = false })
			p = dead
		}
		if p.vault.minted != 2 || p.vault.good() != 1 {
			t.Errorf("%d tokens minted, %d good", p.vault.minted, p.vault.good())
		}
		if ok, _ := p.ready(); ok {
			t.Error("ready with what was revoked")
		}
		c = p.start()
		after(time.Second)
		c.terminate()
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
	})
}

// What Vault could not be asked to revoke, the next run uses and revokes.
func TestEndWithoutVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		p.vault.set(func() { p.vault.cut = true })
		c.terminate()
		p.vault.set(func() { p.vault.cut = false })
		c = p.start()
		after(time.Second)
		p.wantReady()
		c.terminate()
		if p.vault.minted != 1 || p.vault.good() != 0 || p.kept("token.json") {
			t.Errorf("%d tokens minted, %d good", p.vault.minted, p.vault.good())
		}
	})
}

// Told to end before it took up the token of an earlier run: that is revoked too.
func TestTerminatedBeforeAdoption(t *testing.T) {
	for range 10 { // SIGTERM is met sooner or later
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, env("db.env", "kv/app"))
			c := p.start()
			after(time.Second)
			dead := p.killed()
			p.vault.set(func() { p.vault.cut = true })
			c.terminate()
			p.vault.set(func() { p.vault.cut = false })
			c = dead.start()
			c.terminate()
			if p.vault.good() != 0 {
				t.Error("a token is left")
			}
		})
	}
}
