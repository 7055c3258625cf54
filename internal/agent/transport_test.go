package agent

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
)

// serve runs the fake behind real TLS and points the pod at it.
func (p *pod) serve(t *testing.T, handler http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	p.conf.Vault.Address = server.URL
	p.conf.Vault.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return server
}

// startReal starts an agent that dials.
func (p *pod) startReal(t *testing.T) *container {
	t.Helper()
	v, err := volume.Open(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(p.conf, v, slog.New(slog.NewTextHandler(p.logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return p.run(a, v)
}

// wait waits for the gate as the hook does.
func (p *pod) wait(t *testing.T) {
	t.Helper()
	v, err := volume.Open(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := Wait(t.Context(), v); err != nil {
		t.Fatal(err)
	}
}

// wantReason waits until that is why the agent is not ready.
func (p *pod) wantReason(t *testing.T, want string) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(time.Minute); ; <-poll.C {
		_, reason := p.ready()
		if strings.Contains(reason, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not ready because %q, not because %q", reason, want)
		}
	}
}

// Nothing in the environment has a say in where the agent goes and with what.
func TestAmbientEnvironment(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	trap := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the trap was asked for %s %s", r.Method, r.URL)
	}))
	defer trap.Close()
	checked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, header := range []string{"X-Vault-Namespace", "X-Ambient", "X-Vault-Wrap-Ttl"} {
			if got := r.Header.Get(header); got != "" {
				t.Errorf("%s sent with %s: %s", r.URL.Path, header, got)
			}
		}
		p.vault.ServeHTTP(w, r)
	})
	p.serve(t, checked)
	for name, value := range map[string]string{
		"VAULT_ADDR": trap.URL, "VAULT_AGENT_ADDR": trap.URL, "VAULT_TOKEN": "ambient", "VAULT_NAMESPACE": "ambient", "VAULT_WRAP_TTL": "60",
		"VAULT_SKIP_VERIFY": "maybe", "VAULT_HEADERS": `{"X-Ambient":"1"}`, "VAULT_PROXY_ADDR": trap.URL, "VAULT_HTTP_PROXY": trap.URL,
		"VAULT_CACERT": "/nonexistent", "VAULT_CLIENT_TIMEOUT": "x", "VAULT_MAX_RETRIES": "x", "VAULT_RATE_LIMIT": "x", "VAULT_TLS_SERVER_NAME": "ambient", "VAULT_SRV_LOOKUP": "true",
		"HTTPS_PROXY": trap.URL, "HTTP_PROXY": trap.URL, "ALL_PROXY": trap.URL,
	} {
		t.Setenv(name, value)
	}
	c := p.startReal(t)
	p.wait(t)
	if got := p.file("db.env"); got != appEnv {
		t.Errorf("file holds %q", got)
	}
	if err := c.terminate(); err != nil {
		t.Error(err)
	}
	p.wantCalls(callLogin, callMount, callRead, callEnd)
}

// A redirect is not followed, whatever it leads to: the token stays here.
func TestRedirectIsNotFollowed(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the other host was asked for %s %s", r.Method, r.URL)
	}))
	defer elsewhere.Close()
	answered := make(chan struct{}, 100)
	p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, []int{301, 307, 308}[len(answered)%3])
		answered <- struct{}{}
	}))
	c := p.startReal(t)
	for range 3 {
		<-answered
	}
	if err := c.terminate(); err != nil {
		t.Error(err)
	}
}

// A certificate that does not convince is something for a person to mend, and
// the message says so.
func TestTrust(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*config.Vault)
		want   string
	}{
		"other CA":    {func(v *config.Vault) { v.CA = "" }, "certificate signed by unknown authority (correct the connection's ca"},
		"other name":  {func(v *config.Vault) { v.TLSServerName = "other.test" }, "not other.test (correct the connection's ca or tlsServerName"},
		"no CA file":  {func(v *config.Vault) { v.CA, v.CAFile = "", "/nonexistent/ca.crt" }, "open /nonexistent/ca.crt: no such file or directory (does what holds it exist in the pod's namespace?)"},
		"bad CA file": {func(v *config.Vault) { v.CA, v.CAFile = "", os.DevNull }, "/dev/null holds no certificate (a PEM bundle)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, env("db.env", "kv/app"))
			p.serve(t, p.vault)
			c.change(&p.conf.Vault)
			agent := p.startReal(t)
			p.wantReason(t, c.want)
			if err := agent.terminate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCAFile(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	p.serve(t, p.vault)
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, []byte(p.conf.Vault.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	p.conf.Vault.CA, p.conf.Vault.CAFile = "", file
	c := p.startReal(t)
	p.wait(t)
	c.terminate()
}

func TestOldTLSIsRefused(t *testing.T) {
	transport, err := dial(config.Vault{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if v := transport.next.TLSClientConfig.MinVersion; v < tls.VersionTLS12 {
		t.Errorf("TLS version %x", v)
	}
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "x": 0, "99999999": time.Hour, "Mon, 01 Jan 2001 00:00:00 GMT": 0} {
		if got := retryAfter(header); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, later := range []bool{false, true} {
		longest := longestStart
		if later {
			longest = longestLater
		}
		var b backoff
		var pauses []time.Duration
		for range 1000 {
			d := b.next(later, 0)
			if d < shortestPause || d > longest+shortestPause {
				t.Fatalf("pause of %s", d)
			}
			pauses = append(pauses, d)
		}
		if slices.Max(pauses) < longest*9/10 || slices.Min(pauses[10:]) > longest/10 {
			t.Errorf("pauses from %s to %s are no full jitter", slices.Min(pauses[10:]), slices.Max(pauses))
		}
	}
}

// Everyone who was asked to come back later is asked for the same: they do not
// all come at once, not even at their first try.
func TestBackoffAfterRetryAfter(t *testing.T) {
	var pauses []time.Duration
	for range 1000 {
		var b backoff
		pauses = append(pauses, b.next(true, 30*time.Second))
	}
	if first, last := slices.Min(pauses), slices.Max(pauses); first < 30*time.Second || last-first < 10*time.Second || last > time.Minute {
		t.Errorf("30 s were asked for: pauses from %s to %s", first, last)
	}
}

func TestLastWords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "words")
	LastWords(file, &Problem{Text: "a\nb " + strings.Repeat("é", 4096)})
	got, err := os.ReadFile(file)
	if err != nil || len(got) > 4096 || !bytes.HasPrefix(got, []byte("a; b é")) || bytes.Count(got, []byte("\n")) != 1 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
