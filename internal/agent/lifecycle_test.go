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

func (p *pod) kept(name string) bool {
	_, err := os.Stat(filepath.Join(p.dir, "private", name))
	return err == nil
}

// An init container publishes, ends, and leaves no token; the kubelet may run it
// again, over what it has left.
func TestInit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Lifecycle = config.Init
		began := time.Now()
		if err := <-p.start().result; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("ended after %s", d)
		}
		p.wantCalls(callLogin, callMount, callRead, callEnd)
		if p.file("db.env") != appEnv || p.kept("token.json") || p.kept("revoked") {
			t.Errorf("file %q, token kept: %v, note of a revocation: %v", p.file("db.env"), p.kept("token.json"), p.kept("revoked"))
		}

		v2(p.vault, "kv/data/app", map[string]any{"a": "new"})
		if err := <-p.start().result; err != nil {
			t.Fatal(err)
		}
		if got := p.file("db.env"); got != "a='new'\n" {
			t.Errorf("run again: %q", got)
		}

		// Running again is a start like the first: what cannot be read is an error.
		delete(p.vault.secrets, "kv/data/app")
		err := <-p.start().result
		if err == nil || !strings.HasPrefix(err.Error(), `no files after 2m0s: path "db.env": reading "kv/data/app": no such secret`) {
			t.Errorf("got %v", err)
		}
	})
}

// What an init container's token is revoked for, and what not.
func TestInitKeepsToken(t *testing.T) {
	no, yes := false, true
	for name, c := range map[string]struct {
		revoke  *bool
		token   bool
		revoked bool
	}{
		"default": {nil, false, true}, "on": {&yes, false, true}, "off": {&no, false, false}, "token file": {nil, true, false}, "on with a token file": {&yes, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.conf.Lifecycle, p.conf.RevokeOnExit = config.Init, c.revoke
				if c.token {
					p.conf.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400}
				}
				if err := <-p.start().result; err != nil {
					t.Fatal(err)
				}
				if revoked := p.vault.good() == 0; revoked != c.revoked {
					t.Errorf("revoked: %v", revoked)
				}
				if told := strings.Contains(p.logs.String(), "latchkey.dev/revoke-on-exit has no effect"); told != (c.token && c.revoke != nil) {
					t.Errorf("told that it is kept all the same: %v", told)
				}
				if p.kept("token.json") == c.revoked {
					t.Errorf("kept for another run: %v", p.kept("token.json"))
				}
			})
		})
	}
}

// A pod that is deleted before its init container is done: no token is left, and
// it has not succeeded.
func TestInitIsTerminated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/nope"))
		p.conf.Lifecycle = config.Init
		c := p.start()
		after(time.Second)
		if err := c.terminate(); err == nil || err.Error() != "told to end before the files were published" {
			t.Errorf("got %v", err)
		}
		if p.vault.good() != 0 || p.kept("token.json") {
			t.Error("a token is left")
		}
	})
}

// A sidecar's app starts before there are files, and they come when they come.
func TestSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Lifecycle = config.Sidecar
		p.vault.cut = true
		c := p.start()
		after(20 * time.Second)
		mounted, err := os.Stat(filepath.Join(p.dir, "out"))
		if err != nil || !mounted.IsDir() {
			t.Fatalf("the app is held back: %v", err)
		}
		if ok, reason := p.ready(); ok || !strings.Contains(reason, "connection refused") {
			t.Errorf("ready %v, %q", ok, reason)
		}
		p.vault.set(func() { p.vault.cut = false })
		after(11 * time.Second)
		p.wantReady()
		if now, err := os.Stat(filepath.Join(p.dir, "out")); err != nil || !os.SameFile(mounted, now) || p.file("db.env") != appEnv {
			t.Errorf("the app sees %q (%v)", p.file("db.env"), err)
		}

		// SIGTERM leaves the gate open, and says that what lies there is not good.
		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
		if ok, reason := p.ready(); ok || !strings.Contains(reason, "revoked") || p.file("db.env") != appEnv {
			t.Errorf("after SIGTERM: ready %v, %q, file %q", ok, reason, p.file("db.env"))
		}
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
		p.vault.set(func() { p.vault.cut = true })
		c = p.start()
		after(time.Hour) // apps may run: no start timeout
		if ok, _ := p.ready(); ok {
			t.Error("ready with what was revoked")
		}
		p.vault.set(func() { p.vault.cut = false })
		after(3 * time.Minute)
		p.wantReady()

		// Killed, it goes on where it was.
		dead := p.killed()
		c.terminate()
		p.vault.set(func() { p.vault.cut = true })
		p = dead
		c = p.start()
		after(time.Hour)
		p.wantReady()
		c.terminate()
	})
}

// Until the first files are out, a sidecar's start is as any: it ends with the
// reason when its time is up.
func TestSidecarStartTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/nope"))
		p.conf.Lifecycle = config.Sidecar
		if err := <-p.start().result; err == nil || !strings.Contains(err.Error(), "no such secret") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "out")); err != nil {
			t.Errorf("the app is held back: %v", err)
		}
	})
}

// RevokeOnExit false: the token stays, for the agent that is started again.
func TestRevokeOnExitOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		off := false
		p.conf.RevokeOnExit = &off
		c := p.start()
		after(time.Second)
		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
		p.wantReady()
		c = p.start()
		after(time.Second)
		p.wantReady()
		if p.vault.minted != 1 || p.vault.good() != 1 {
			t.Errorf("%d tokens minted, %d good", p.vault.minted, p.vault.good())
		}
		c.terminate()
	})
}

// The agent's token as a file, in both formats, kept fresh; whoever uses it is
// not cut off.
func TestPublishedToken(t *testing.T) {
	for format, want := range map[string]string{
		"":     tokenPrefix + "%",
		"json": `{"clientToken":"` + tokenPrefix + `%","accessor":"accessor-%","leaseDuration":3600,"renewable":true,"vaultAddr":"https://vault.test:8200"}` + "\n",
	} {
		t.Run(format, func(t *testing.T) {
			for _, files := range [][]config.File{nil, {env("db.env", "kv/app")}} {
				synctest.Test(t, func(t *testing.T) {
					p := newPod(t, env("db.env", "kv/app"))
					p.conf.Files = files
					p.conf.TokenFile = &config.TokenFile{Path: "vault/token", Format: format, Mode: 0o400}
					p.conf.Notify = notifyApp
					p.vault.role.max = 3 * time.Hour
					c := p.start()
					after(0)
					p.wantReady()
					if got := p.file("vault/token"); got != strings.ReplaceAll(want, "%", "1") {
						t.Errorf("got %q", got)
					}
					if len(files) > 0 && p.file("db.env") != appEnv {
						t.Errorf("db.env holds %q", p.file("db.env"))
					}
					// Renewed many times, nothing changes.
					after(90 * time.Minute)
					if _, tries := p.app.taken(); tries != 0 {
						t.Errorf("told %d times of nothing", tries)
					}
					after(89 * time.Minute)
					if got := p.file("vault/token"); got != strings.ReplaceAll(want, "%", "2") {
						t.Errorf("after another login: %q", got)
					}
					if heard, _ := p.app.taken(); len(heard) == 0 {
						t.Error("nobody was told of the new token")
					}
					if n := count(p.vault.taken(), callEnd); n != 0 {
						t.Errorf("%d revocations", n)
					}
					if err := c.terminate(); err != nil {
						t.Fatal(err)
					}
					if n := count(p.vault.taken(), callEnd); n != 0 {
						t.Errorf("%d revocations at the end", n)
					}
					p.wantReady()
				})
			}
		})
	}
}

// A token that Vault calls invalid stays published until there is another.
func TestPublishedTokenIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400}
		c := p.start()
		after(time.Second)
		p.vault.set(func() {
			p.vault.tokens[tokenPrefix+"1"].revoked = true
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasSuffix(r.URL.Path, "/login") && says(503, nil, `{"errors":["Vault is sealed"]}`)(w, r)
			}
		})
		after(20 * time.Minute)
		if got := p.file("token"); got != tokenPrefix+"1" {
			t.Errorf("got %q", got)
		}
		p.vault.set(func() { p.vault.fault = nil })
		after(3 * time.Minute)
		if got := p.file("token"); got != tokenPrefix+"2" {
			t.Errorf("got %q", got)
		}
		c.terminate()
	})
}

// Where nothing is read and the token is not renewed, it is looked up: one that
// was revoked is replaced in minutes, whether the agent was started again or not.
func TestPublishedTokenIsRevoked(t *testing.T) {
	for name, c := range map[string]struct {
		role    fakeRole
		restart bool
		within  time.Duration
	}{
		"not renewable":          {fakeRole{ttl: 24 * time.Hour, fixed: true}, false, 11 * time.Minute},
		"batch":                  {fakeRole{ttl: 24 * time.Hour, batch: true}, false, 11 * time.Minute},
		"renewable":              {fakeRole{ttl: 24 * time.Hour, max: 48 * time.Hour}, false, 11 * time.Minute},
		"not renewable, adopted": {fakeRole{ttl: 24 * time.Hour, fixed: true}, true, time.Second},
		"batch, adopted":         {fakeRole{ttl: 24 * time.Hour, batch: true}, true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.conf.Files = nil
				p.conf.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400}
				p.vault.role = c.role
				run := p.start()
				after(12 * time.Hour)
				p.wantReady()
				if calls := p.vault.taken(); p.vault.minted != 1 || len(calls) > 85 {
					t.Errorf("%d tokens, %d calls", p.vault.minted, len(calls))
				}
				p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = true })
				if c.restart {
					run.terminate()
					run = p.start()
				}
				after(c.within)
				if got := p.file("token"); got != tokenPrefix+"2" {
					t.Errorf("got %q", got)
				}
				after(24 * time.Hour)
				if p.vault.minted > 3 {
					t.Errorf("%d tokens", p.vault.minted)
				}
				run.terminate()
			})
		})
	}
}

// An init container that runs again when a certificate is due, and cannot get
// another, publishes the one that is good still, but none that is over.
func TestInitWithKeptAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		later time.Duration
		fault func(http.ResponseWriter, *http.Request) bool
		good  bool
	}{
		"good still":       {20 * time.Hour, says(500, nil, `{"errors":["internal error"]}`), true},
		"over":             {25 * time.Hour, says(500, nil, `{"errors":["internal error"]}`), false},
		"someone must act": {20 * time.Hour, says(403, nil, `{"errors":["permission denied"]}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, certificate("tls"))
				p.conf.Lifecycle = config.Init
				p.issues(24 * time.Hour)
				if err := <-p.start().result; err != nil {
					t.Fatal(err)
				}
				after(c.later)
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/v1/pki/") && c.fault(w, r)
				}
				if err := <-p.start().result; (err == nil) != c.good {
					t.Errorf("got %v", err)
				}
				if told := strings.Contains(p.logs.String(), "publishing what an earlier run was given"); told != c.good {
					t.Errorf("told: %v", told)
				}
			})
		})
	}
}
