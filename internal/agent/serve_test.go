package agent

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
)

// get asks a handler of the agent's.
func get(h http.Handler, path string) (status int, body string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.cut = true
		c := p.start()
		after(time.Second)
		h := c.agent.opsHandler()
		if status, body := get(h, "/readyz"); status != 503 || !strings.Contains(body, "connection refused") {
			t.Errorf("readyz without Vault: %d %q", status, body)
		}
		if status, body := get(h, "/livez"); status != 200 {
			t.Errorf("livez without Vault: %d %q", status, body)
		}
		p.vault.set(func() { p.vault.cut = false })
		after(time.Minute)
		if status, body := get(h, "/readyz"); status != 200 {
			t.Errorf("readyz: %d %q", status, body)
		}
		// An outage later on is nothing that a restart or another pod mends.
		p.vault.set(func() { p.vault.cut = true })
		after(2 * time.Hour)
		for _, path := range []string{"/readyz", "/livez", "/livez"} {
			if status, body := get(h, path); status != 200 {
				t.Errorf("%s in an outage: %d %q", path, status, body)
			}
			after(10 * time.Minute)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST: %d", w.Code)
		}
		c.terminate()
	})
}

// An agent whose loop stands still is told of, by the second probe that is late.
func TestLivezOfAnAgentThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		v, err := volume.Open(p.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		a, err := New(p.conf, v, nil) // and nobody runs it
		if err != nil {
			t.Fatal(err)
		}
		h := a.opsHandler()
		for _, want := range []int{200, 200, 503} {
			if status, body := get(h, "/livez"); status != want {
				t.Errorf("livez: %d %q, want %d", status, body, want)
			}
			after(50 * time.Second)
		}
	})
}

var sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{([^}]*)\})? (\S+)$`)

// metricsOf are the agent's samples by name and labels.
func metricsOf(a *Agent) map[string]string {
	_, body := get(a.opsHandler(), "/metrics")
	samples := make(map[string]string)
	for _, m := range sample.FindAllStringSubmatch(body, -1) {
		name := m[1]
		if m[2] != "" {
			name += "{" + m[2] + "}"
		}
		samples[name] = m[3]
	}
	return samples
}

func wantMetrics(t *testing.T, a *Agent, want map[string]string) {
	t.Helper()
	got := metricsOf(a)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"))
		p.conf.Notify = notifyApp
		p.vault.cut = true
		c := p.start()
		after(0)
		wantMetrics(t, c.agent, map[string]string{
			"latchkey_agent_token_ttl_seconds":                               "",
			"latchkey_agent_last_success_timestamp_seconds":                  "",
			"latchkey_agent_stale_seconds":                                   "0",
			`latchkey_agent_errors_total{kind="unavailable"}`:                "1",
			`latchkey_agent_vault_requests_total{kind="login",code="error"}`: "1",
		})
		p.vault.set(func() { p.vault.cut = false })
		after(time.Minute)
		p.wantReady()
		read := c.agent.entries[0].succeeded
		wantMetrics(t, c.agent, map[string]string{
			"latchkey_agent_last_success_timestamp_seconds":                fmt.Sprintf("%g", float64(read.UnixMilli())/1000),
			"latchkey_agent_publications_total":                            "1",
			`latchkey_agent_vault_requests_total{kind="login",code="2xx"}`: "1",
			`latchkey_agent_vault_requests_total{kind="mount",code="2xx"}`: "1",
			`latchkey_agent_vault_requests_total{kind="read",code="2xx"}`:  "2",
			"latchkey_agent_missing":                                       "0",
		})

		// A required secret goes, another changes.
		p.vault.set(func() { delete(p.vault.secrets, "kv/data/other") })
		v2(p.vault, "kv/data/app", map[string]any{"a": "new"})
		after(330 * time.Second)
		got := metricsOf(c.agent)
		if got["latchkey_agent_missing"] != "1" || got[`latchkey_agent_errors_total{kind="missing"}`] != "1" || got["latchkey_agent_publications_total"] != "2" ||
			got[`latchkey_agent_notifications_total{result="success"}`] != "2" || got["latchkey_agent_stale_seconds"] == "0" {
			t.Errorf("after a secret went and another changed: %v", got)
		}

		// An outage: the token runs down and the files get old.
		p.vault.set(func() { p.vault.cut = true })
		after(50 * time.Minute)
		got = metricsOf(c.agent)
		var left, stale float64
		_, _ = fmt.Sscan(got["latchkey_agent_token_ttl_seconds"], &left)
		_, _ = fmt.Sscan(got["latchkey_agent_stale_seconds"], &stale)
		if left <= 0 || left > 1300 || stale < 3000 || stale > 3700 || got["latchkey_agent_missing"] != "1" {
			t.Errorf("in an outage: token %v, stale %v: %v", left, stale, got)
		}

		// The token is revoked, and there is no other.
		p.vault.set(func() {
			p.vault.cut, p.vault.role.gone = false, true
			for _, token := range p.vault.tokens {
				token.revoked = true
			}
		})
		after(10 * time.Minute)
		got = metricsOf(c.agent)
		if got["latchkey_agent_token_ttl_seconds"] != "0" || got[`latchkey_agent_errors_total{kind="login"}`] == "" || got[`latchkey_agent_errors_total{kind="invalid_token"}`] == "" {
			t.Errorf("without a token: %v", got)
		}
		c.terminate()
	})
}

// What is served is what is documented: names, types and labels.
func TestMetricsAreDocumented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Notify = notifyApp
		c := p.start()
		after(time.Minute)
		v2(p.vault, "kv/data/app", map[string]any{"a": "new"})
		after(10 * time.Minute)
		c.agent.ops.meter.problem("token", &Problem{})
		(&proxy{ops: c.agent.ops}).count("passed")
		_, body := get(c.agent.opsHandler(), "/metrics")
		seen := make(map[string]bool)
		docs := MetricDocs()
		for _, m := range sample.FindAllStringSubmatch(body, -1) {
			seen[m[1]] = true
			i := slices.IndexFunc(docs, func(d MetricDoc) bool { return d.Name == m[1] })
			if i < 0 {
				t.Errorf("%s is not documented", m[1])
				continue
			}
			var labels []string
			for l := range strings.SplitSeq(m[2], ",") {
				if name, _, ok := strings.Cut(l, "="); ok {
					labels = append(labels, name)
				}
			}
			if !slices.Equal(labels, docs[i].Labels) {
				t.Errorf("%s has the labels %q, documented are %q", m[1], labels, docs[i].Labels)
			}
		}
		for _, d := range docs {
			if !seen[d.Name] {
				t.Errorf("%s is documented, and not served:\n%s", d.Name, body)
			}
			if !strings.Contains(body, fmt.Sprintf("# HELP %s %s\n# TYPE %s %s\n", d.Name, d.Help, d.Name, d.Type)) {
				t.Errorf("%s has no HELP or TYPE", d.Name)
			}
		}
		if !slices.IsSortedFunc(docs, func(a, b MetricDoc) int { return strings.Compare(a.Name, b.Name) }) {
			t.Error("the table is not sorted")
		}
		c.terminate()
	})
}

func TestKindOf(t *testing.T) {
	for call, want := range map[string]string{
		"PUT auth/kubernetes/login":         "login",
		"PUT auth/a/b/login":                "login",
		"PUT auth/userpass/login/ada":       "login",
		"PUT auth/token/renew-self":         "renew",
		"GET auth/token/lookup-self":        "lookup",
		"PUT sys/wrapping/lookup":           "lookup",
		"PUT auth/token/revoke-self":        "revoke",
		"PUT sys/leases/revoke":             "revoke",
		"PUT sys/leases/renew":              "lease",
		"GET sys/internal/ui/mounts/kv/app": "mount",
		"GET kv/data/auth/login":            "read",
		"LIST kv/metadata":                  "read",
		"PUT pki/issue/app":                 "write",
		"DELETE kv/data/app":                "write",
	} {
		method, path, _ := strings.Cut(call, " ")
		if got := kindOf(method, path); got != want {
			t.Errorf("%s is %q, want %q", call, got, want)
		}
	}
}

// An agent listens on a real port and a real socket, from before the first files
// until it ends, and its socket survives publications and restarts.
func TestListens(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	dir, err := os.MkdirTemp("", "latchkey") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p.dir = dir
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.conf.Serve = free.Addr().String()
	_ = free.Close()
	p.conf.Local = &config.Local{Socket: "vault.sock", Mode: 0o660, Quit: true, Proxy: &config.Proxy{}}
	if err := p.conf.Validate(); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "out", "vault.sock")
	app := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}

	for range 2 {
		c := p.start()
		eventually(t, func() error {
			resp, err := http.Get("http://" + p.conf.Serve + "/readyz")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				return fmt.Errorf("readyz: %s", resp.Status)
			}
			resp, err = app.Get("http://localhost/v1/kv/data/app")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				return fmt.Errorf("through the socket: %s", resp.Status)
			}
			return nil
		})
		if info, err := os.Stat(socket); err != nil || info.Mode() != os.ModeSocket|0o660 {
			t.Errorf("the socket: %v, %v", info.Mode(), err)
		}
		resp, err := app.Post("http://localhost/quit", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("quit: %s", resp.Status)
		}
		if err := <-c.result; err != nil {
			t.Errorf("asked to quit: %v", err)
		}
		if _, err := http.Get("http://" + p.conf.Serve + "/livez"); err == nil {
			t.Error("an agent that has ended serves")
		}
		if _, err := os.Stat(filepath.Join(dir, "files", "db.env")); err != nil {
			t.Error(err)
		}
	}
}

// eventually polls what runs in real time.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-end:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// How stale files are is told from when they were to be read again: also where a
// Vault that is down lets nobody try, or the volume is full.
func TestStale(t *testing.T) {
	for name, breakIt := range map[string]func(p *pod, broken bool){
		"Vault down": func(p *pod, broken bool) { p.vault.cut = broken },
		"token lost": func(p *pod, broken bool) {
			p.vault.role.gone = broken
			for _, token := range p.vault.tokens {
				token.revoked = true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.conf.Refresh = config.Duration(10 * time.Hour)
				c := p.start()
				stale := func() (s float64) {
					t.Helper()
					if _, err := fmt.Sscan(metricsOf(c.agent)["latchkey_agent_stale_seconds"], &s); err != nil {
						t.Error(err)
					}
					return s
				}
				after(8 * time.Hour)
				p.vault.set(func() { breakIt(p, true) })
				after(30 * time.Minute)
				if s := stale(); s != 0 {
					t.Errorf("stale for %g s before anything was due", s)
				}
				after(4*time.Hour + 30*time.Minute)
				if s := stale(); s < 2*3600-10 || s > 4*3600 {
					t.Errorf("stale for %g s", s)
				}
				p.vault.set(func() { breakIt(p, false) })
				after(3 * time.Minute)
				if s := stale(); s != 0 {
					t.Errorf("stale for %g s when all is well again", s)
				}
				c.terminate()
			})
		})
	}
}

// Whoever opens connections and says nothing costs the agent little: only few are
// open at a time, and others are served when those have ended.
func TestFewConnectionsAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Serve = ":9102"
		listener := make(piped)
		p.listen = func(string) (net.Listener, error) { return listener, nil }
		c := p.start()
		after(0)
		opened := make(chan net.Conn)
		go func() {
			for range openConnections + 1 {
				there, here := net.Pipe()
				listener <- here
				opened <- there
			}
		}()
		for range openConnections {
			defer (<-opened).Close()
		}
		synctest.Wait()
		select {
		case last := <-opened:
			last.Close()
			t.Errorf("more than %d connections are open", openConnections)
			c.terminate()
			return
		default:
		}
		// Those that say nothing are closed by and by.
		after(6 * time.Second)
		last := <-opened
		defer last.Close()
		_ = last.SetDeadline(time.Now().Add(time.Second))
		if err := httptest.NewRequest("GET", "/livez", nil).Write(last); err != nil {
			t.Fatal(err)
		}
		if answer, err := http.ReadResponse(bufio.NewReader(last), nil); err != nil || answer.StatusCode != 200 {
			t.Fatalf("%v, %v", answer, err)
		}
		c.terminate()
	})
}
