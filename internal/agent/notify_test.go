package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

var notifyApp = []config.Notification{
	{HTTP: &config.HTTPRequest{URL: "http://127.0.0.1:8080/-/reload?key=" + fixturePassword}},
	{Signal: &config.ProcessSignal{Process: "nginx"}},
}

const appURL = "http://127.0.0.1:8080/-/reload"

func (p *pod) wantHeard(want ...string) {
	p.t.Helper()
	if heard, _ := p.app.taken(); !slices.Equal(heard, want) {
		p.t.Errorf("told %q, want %q", heard, want)
	}
}

// Apps are told once of each set that changed something, never of the pod's
// first, and not because the agent was started again.
func TestNotify(t *testing.T) {
	for _, lifecycle := range []string{config.Native, config.Sidecar} {
		t.Run(lifecycle, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"), config.File{Path: "other", Secret: "kv/other", Format: "json", Optional: true})
				p.conf.Notify, p.conf.Lifecycle = notifyApp, lifecycle
				c := p.start()
				after(20 * time.Minute)
				p.wantHeard()
				v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
				after(6 * time.Minute)
				p.wantHeard(appURL, "nginx")
				after(time.Hour)
				p.wantHeard()
				p.vault.set(func() { delete(p.vault.secrets, "kv/data/other") }) // a file goes
				after(6 * time.Minute)
				p.wantHeard(appURL, "nginx")

				dead := p.killed()
				c.terminate()
				p = dead
				c = p.start()
				after(20 * time.Minute)
				p.wantHeard()
				c.terminate()
				c = p.start()
				after(20 * time.Minute)
				p.wantHeard()
				// A change that came while the agent was away.
				c.terminate()
				v2(p.vault, "kv/data/app", map[string]any{"a": "3"})
				c = p.start()
				after(time.Second)
				p.wantHeard(appURL, "nginx")
				c.terminate()
			})
		})
	}
}

// Whoever did not hear is told again, ever more seldom and not for ever; it
// costs Vault nothing and is said once.
func TestNotifyFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Notify = notifyApp[:1]
		p.conf.Refresh = config.Duration(time.Minute)
		c := p.start()
		after(time.Second)
		p.app.set(errors.New("notifying the app: connection refused"))
		v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
		p.vault.taken()
		after(40 * time.Minute)
		if n := count(p.vault.taken(), callRead); n < 36 || n > 45 {
			t.Errorf("%d reads in 40 intervals", n)
		}
		_, tries := p.app.taken()
		if tries < 5 || tries > 40 {
			t.Errorf("%d tries", tries)
		}
		if n := strings.Count(p.logs.String(), `"level":"WARN"`); n != 1 {
			t.Errorf("%d warnings", n)
		}
		if n := strings.Count(p.logs.String(), "gave up telling"); n != 1 {
			t.Errorf("gave up %d times", n)
		}

		// What was not heard is told after a restart, even while Vault is away and
		// there is no token.
		p.app.set(nil)
		dead := p.killed()
		c.terminate()
		p = dead
		if err := os.Remove(filepath.Join(p.dir, "private", "token.json")); err != nil {
			t.Fatal(err)
		}
		p.vault.set(func() { p.vault.cut = true })
		c = p.start()
		after(time.Second)
		p.wantHeard(appURL)
		c.terminate()
		c = p.start()
		after(time.Minute)
		p.wantHeard()
		c.terminate()
	})
}

// A sidecar that was killed right after its first publication: nobody is told
// of that, and everyone of the next.
func TestNotifyAfterKilledStart(t *testing.T) {
	for name, terminated := range map[string]bool{"killed": false, "terminated": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.conf.Notify, p.conf.Lifecycle = notifyApp, config.Sidecar
				c := p.start()
				after(time.Second)
				dead := p.killed()
				c.terminate()
				if !terminated {
					p = dead
				}
				if err := os.Remove(filepath.Join(p.dir, "private", "told")); err != nil {
					t.Fatal(err)
				}
				c = p.start()
				after(time.Second)
				p.wantHeard()
				v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
				after(6 * time.Minute)
				p.wantHeard(appURL, "nginx")
				c.terminate()
			})
		})
	}
}

// Where only some processes could be told, they are not told again, and it is
// said once that others were not.
func TestNotifyOnlySome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Notify = notifyApp[1:]
		c := p.start()
		after(time.Second)
		p.app.set(partlySent{"nginx", 4, 1})
		v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
		after(time.Hour)
		if _, tries := p.app.taken(); tries != 1 {
			t.Errorf("%d tries", tries)
		}
		if n := strings.Count(p.logs.String(), `4 were told, but 1 run as another user`); n != 1 {
			t.Errorf("%d warnings", n)
		}
		c.terminate()
	})
}

// A newer set takes the place of one that nobody has heard of yet.
func TestNotifyIsSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Notify = notifyApp[:1]
		p.conf.Refresh = config.Duration(config.MinRefresh)
		c := p.start()
		after(time.Second)
		p.app.set(errors.New("notifying the app: connection refused"))
		for _, value := range []string{"2", "3", "4"} {
			p.vault.set(func() { v2(p.vault, "kv/data/app", map[string]any{"a": value}) })
			after(6 * time.Second)
		}
		p.app.set(nil)
		after(10 * time.Minute)
		p.wantHeard(appURL)
		c.terminate()
	})
}

func TestRequest(t *testing.T) {
	var asked []string
	status := http.StatusNoContent
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String())
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer server.Close()
	to := &config.HTTPRequest{URL: server.URL + "/-/reload?key=" + fixturePassword}
	if err := request(t.Context(), to); err != nil {
		t.Error(err)
	}
	to.Method = "PUT"
	for _, status = range []int{307, 404, 500} {
		if err := request(t.Context(), to); err == nil || !strings.Contains(err.Error(), "/-/reload: answered ") || strings.Contains(err.Error(), fixturePassword) {
			t.Errorf("%d: got %v", status, err)
		}
	}
	const path = " /-/reload?key=" + fixturePassword
	if want := []string{"POST" + path, "PUT" + path, "PUT" + path, "PUT" + path}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q", asked)
	}
	server.Close()
	if err := request(t.Context(), to); err == nil || !strings.HasSuffix(err.Error(), "connection refused") || strings.Contains(err.Error(), fixturePassword) {
		t.Errorf("got %v", err)
	}
}

// An app that accepts and never answers is a failure like any other.
func TestRequestHangs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := request(ctx, &config.HTTPRequest{URL: "http://" + listener.Addr().String()}); err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("got %v", err)
	}
}

// Whatever a name means by now, no request leaves the pod.
func TestOnlyLoopback(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "10.0.0.1:80": false, "[fe80::1]:80": false, "0.0.0.0:80": false} {
		if err := onlyLoopback("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}
