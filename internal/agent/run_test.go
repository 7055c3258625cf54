package agent

import (
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

// A pod's life: files, refresh, a change, SIGTERM, and a start after it.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("sub/db.env", "kv/data/app"),
			config.File{Path: "conf", Template: `{{ with secret "kv/app" }}user={{ .Data.data.username }}{{ end }}`})
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callLogin, callMount, callRead)
		for _, name := range []string{"db.env", "sub/db.env"} {
			if got := p.file(name); got != appEnv {
				t.Errorf("%s holds %q", name, got)
			}
		}
		if got := p.file("conf"); got != "user=ada" {
			t.Errorf("conf holds %q", got)
		}
		before, err := os.Stat(filepath.Join(p.dir, "out", "conf"))
		if err != nil {
			t.Fatal(err)
		}

		// Nothing changed: read again, nothing written.
		after(330 * time.Second)
		p.wantCalls(callRead)

		p.vault.set(func() {
			p.vault.secrets["kv/data/app"] = map[string]any{"data": map[string]any{"data": map[string]any{"username": "ada", "password": "new"}, "metadata": map[string]any{"version": 2}}}
		})
		after(330 * time.Second)
		if got := p.file("db.env"); got != "password='new'\nusername='ada'\n" {
			t.Errorf("after the change: %q", got)
		}
		if now, err := os.Stat(filepath.Join(p.dir, "out", "conf")); err != nil || !os.SameFile(before, now) {
			t.Errorf("a file that did not change was touched (%v)", err)
		}
		p.vault.taken()

		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
		p.wantCalls(callEnd)
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
		if ok, reason := p.ready(); ok || !strings.Contains(reason, "revoked") {
			t.Errorf("after SIGTERM: ready %v, %q", ok, reason)
		}
		if b, err := os.ReadFile(filepath.Join(p.dir, "files", "db.env")); err != nil || len(b) == 0 {
			t.Errorf("a running app lost its file: %v", err)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "private", "token.json")); !os.IsNotExist(err) {
			t.Errorf("the revoked token is kept: %v", err)
		}

		// The container is started again: a new login, the same directory.
		c = p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callLogin, callMount, callRead)
		if _, err := os.Stat(filepath.Join(p.dir, "private", "revoked")); !os.IsNotExist(err) {
			t.Errorf("the note of the revocation stays: %v", err)
		}
		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
	})
}

// After SIGTERM apps may still run: a start that finds Vault down goes on
// trying, whatever the start timeout says.
func TestStartAfterRevocationDoesNotGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(0)
		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
		p.vault.set(func() { p.vault.cut = true })
		c = p.start()
		after(time.Hour)
		if ok, reason := p.ready(); ok || !strings.Contains(reason, "connection refused") {
			t.Errorf("ready %v, %q", ok, reason)
		}
		p.vault.set(func() { p.vault.cut = false })
		after(3 * time.Minute)
		p.wantReady()
		c.terminate()
	})
}

func TestStartTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.cut = true
		began := time.Now()
		c := p.start()
		err := <-c.result
		if err == nil || !strings.HasPrefix(err.Error(), "no files after 2m0s: logging in to https://vault.test:8200 at auth/kubernetes with role \"payments\" as ServiceAccount shop/checkout (aud \"vault\"") ||
			!strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != 2*time.Minute {
			t.Errorf("gave up after %s", d)
		}
		words := filepath.Join(t.TempDir(), "words")
		LastWords(words, err)
		if b, _ := os.ReadFile(words); string(b) != err.Error()+"\n" {
			t.Errorf("last words %q", b)
		}
	})
}

// A Vault that hangs does not make the start timeout late.
func TestStartTimeoutWhileVaultHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.fault = hang
		p.conf.StartTimeout = config.Duration(90 * time.Second)
		began := time.Now()
		if err := <-p.start().result; err == nil || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != 90*time.Second {
			t.Errorf("gave up after %s", d)
		}
	})
}

// Neither the start timeout nor SIGTERM waits for a round that does not end.
func TestEndWhileARoundHangs(t *testing.T) {
	for _, terminated := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, env("db.env", "kv/app"))
			release := make(chan struct{})
			defer close(release)
			p.vault.fault = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v1/kv/data/app" {
					<-release
				}
				return false
			}
			c := p.start()
			after(time.Second)
			if terminated {
				if err := c.terminate(); err != nil {
					t.Error(err)
				}
				return
			}
			after(2 * time.Minute)
			select {
			case err := <-c.result:
				if err == nil {
					t.Error("no error")
				}
			default:
				t.Error("the agent does not give up")
			}
		})
	}
}

// SIGTERM before there is a token, whatever the login is waiting for.
func TestTerminatedBeforeLogin(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"hangs":  hang,
		"sealed": says(503, nil, `{"errors":["Vault is sealed"]}`),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.vault.fault = fault
				c := p.start()
				after(5 * time.Second)
				began := time.Now()
				if err := c.terminate(); err != nil || time.Since(began) != 0 {
					t.Errorf("ended after %s: %v", time.Since(began), err)
				}
				if n := count(p.vault.taken(), callEnd); n != 0 {
					t.Errorf("%d revocations of no token", n)
				}
				// Nothing was published, so the next start is a first one.
				if _, err := os.Stat(filepath.Join(p.dir, "private", "revoked")); !os.IsNotExist(err) {
					t.Errorf("a note of a revocation: %v", err)
				}
			})
		})
	}
}

// A token that cannot be renewed now still reads: an agent that was started
// again goes on as if it had not been.
func TestRestartWhileRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		dead := p.killed()
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/v1/auth/token/") && says(500, nil, `{"errors":["internal error"]}`)(w, r)
			}
		})
		c.terminate()
		v2(p.vault, "kv/data/app", map[string]any{"a": "new"})
		p = dead
		c = p.start()
		after(time.Second)
		if got := p.file("db.env"); got != "a='new'\n" {
			t.Errorf("file holds %q", got)
		}
		after(2 * time.Hour)
		if p.vault.minted < 2 || p.vault.minted > 4 {
			t.Errorf("%d tokens in two hours of tokens that live for one", p.vault.minted)
		}
		c.terminate()
	})
}

// However many secrets a pod reads, and in whatever order, an outage is told
// of once by each who notices, and so is its end.
func TestOutageIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var files []config.File
		for i := range 12 {
			files = append(files, env(fmt.Sprint("file", i), fmt.Sprint("kv/s", i)))
		}
		p := newPod(t, files...)
		for i := range files {
			v2(p.vault, fmt.Sprint("kv/data/s", i), map[string]any{"a": "b"})
		}
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.set(func() { p.vault.cut = true })
		after(40 * time.Minute)
		p.vault.set(func() { p.vault.cut = false })
		after(10 * time.Minute)
		told, ended := 0, 0
		for line := range strings.Lines(p.logs.String()) {
			if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
				told++
			}
			if strings.Contains(line, "works again") {
				ended++
			}
		}
		if told != 2 || ended != 2 {
			t.Errorf("told of %d times, of the end %d times", told, ended)
		}
		c.terminate()
	})
}

// A short refresh does not turn an outage into a load test.
func TestOutageWithShortRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Refresh = config.Duration(config.MinRefresh)
		c := p.start()
		after(time.Second)
		p.vault.set(func() { p.vault.fault = says(503, nil, `{"errors":["Vault is sealed"]}`) })
		p.vault.taken()
		after(time.Hour)
		if n := len(p.vault.taken()); n > 150 {
			t.Errorf("%d calls in an hour", n)
		}
		p.vault.set(func() { p.vault.fault = nil })
		after(2*time.Minute + time.Second)
		p.vault.taken()
		after(time.Minute)
		if n := len(p.vault.taken()); n < 10 {
			t.Errorf("%d calls in a minute after the outage", n)
		}
		c.terminate()
	})
}

// The app gets its files soon after Vault comes back.
func TestVaultDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.cut = true
		c := p.start()
		after(20 * time.Second)
		if ok, reason := p.ready(); ok || !strings.Contains(reason, "connection refused") {
			t.Errorf("ready %v, %q", ok, reason)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "out")); !os.IsNotExist(err) {
			t.Errorf("the gate is open: %v", err)
		}
		p.vault.set(func() { p.vault.cut = false })
		after(10*time.Second + 100*time.Millisecond)
		p.wantReady()
		c.terminate()
	})
}

// SIGTERM before the first publication leaves no note: the next start is a
// first start again, with its timeout.
func TestTerminatedBeforePublication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/nope"))
		c := p.start()
		after(time.Second)
		if err := c.terminate(); err != nil {
			t.Fatal(err)
		}
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
		if err := <-p.start().result; err == nil || !strings.Contains(err.Error(), "no such secret") {
			t.Errorf("got %v", err)
		}
	})
}

// A killed agent takes its token into use again and mints nothing.
func TestReadoption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		dead := p.killed()
		c.stop()
		p.vault.set(func() {
			for _, token := range p.vault.tokens {
				token.revoked = false
			}
		})
		<-c.result
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = false })
		p.vault.taken()
		p = dead
		c = p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callRenew, callMount, callRead)

		// Not by someone else, and not when it is no good.
		dead = p.killed()
		other := *p.conf
		other.Vault.Auth.Role = "payments"
		other.Vault.Namespace = "team"
		c.terminate()
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = false })
		p.vault.taken()
		p = dead
		p.conf = &other
		c = p.start()
		after(0)
		p.wantCalls(callLogin, callMount, callRead)
		dead = p.killed()
		c.terminate()
		p.vault.taken()
		p = dead
		c = p.start()
		after(0)
		p.wantCalls(callRenew, callLogin, callMount, callRead)
		c.terminate()
	})
}

// A container that is started again while Vault is away leaves the running app
// its files, for however long.
func TestRestartDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		dead := p.killed()
		c.terminate()
		p.vault.set(func() { p.vault.cut = true })
		p = dead
		c = p.start()
		after(5 * time.Hour)
		p.wantReady()
		if got := p.file("db.env"); got != appEnv {
			t.Errorf("file holds %q", got)
		}
		p.vault.set(func() {
			p.vault.cut = false
			v2(p.vault, "kv/data/app", map[string]any{"a": "healed"})
		})
		after(10 * time.Minute)
		if got := p.file("db.env"); got != "a='healed'\n" {
			t.Errorf("not healed: %q", got)
		}
		c.terminate()
	})
}
