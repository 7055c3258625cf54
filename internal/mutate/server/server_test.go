package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/certs"
)

const review = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","resource":{"group":"","version":"v1","resource":"pods"},
"namespace":"shop","operation":"CREATE","object":{"metadata":{"annotations":{"latchkey.dev/inject":"true","latchkey.dev/files":"[{path: a, secret: kv/a, format: json}]"}},
"spec":{"containers":[{"name":"app"}]}}}}`

const goodConfig = `connections: {default: {address: "https://%s.example", auth: {role: "{{.Namespace}}"}}}`

// running is a server under test.
type running struct {
	*server
	t       *testing.T
	dir     string
	states  chan string
	ended   chan error
	stop    context.CancelFunc
	log     *lockedBuffer
	address string
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// start runs a server on loopback; it has no certificate yet. Options can be
// changed before, with files in the server's folder.
func start(t *testing.T, change ...func(o *Options, dir string)) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir(), states: make(chan string, 16), ended: make(chan error, 1), log: new(lockedBuffer)}
	r.configure("one")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = free.Addr().String()
	_ = free.Close()
	r.server = &server{
		Options: Options{
			ConfigFile: filepath.Join(r.dir, "config.yaml"),
			Listen:     r.address,
			OpsListen:  "127.0.0.1:0",
			CertDir:    r.dir,
			Drain:      time.Hour, // which the tests cut short
			Log:        slog.New(slog.NewTextHandler(r.log, nil)),
		},
		changed: func(state string) { r.states <- state },
		drained: make(chan struct{}),
	}
	for _, c := range change {
		c(&r.Options, r.dir)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.ended <- r.run(ctx) }()
	r.await("starting")
	return r
}

// end lets the server end, and returns what it ended with.
func (r *running) end() error {
	r.stop()
	close(r.drained)
	return <-r.ended
}

// await takes the next state, which has to begin like this.
func (r *running) await(prefix string) {
	r.t.Helper()
	select {
	case state := <-r.states:
		if !strings.HasPrefix(state, prefix) || prefix == "" && state != "" {
			r.t.Fatalf("state %q, want %q\n%s", state, prefix, r.log)
		}
	case err := <-r.ended:
		r.t.Fatalf("ended with %v\n%s", err, r.log)
	case <-time.After(time.Minute):
		r.t.Fatalf("no state %q\n%s", prefix, r.log)
	}
}

func (r *running) configure(host string) {
	r.write("config.yaml", []byte(strings.Replace(goodConfig, "%s", host, 1)))
}

func (r *running) write(name string, data []byte) {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, name), data)
}

// certify writes a new serving certificate, and returns who trusts it.
func (r *running) certify(end time.Time) *x509.CertPool {
	r.t.Helper()
	return trusting(certify(r.t, r.dir, end))
}

// certify writes tls.crt and tls.key: a certificate that is its own CA, good
// for servers and clients.
func certify(t *testing.T, dir string, end time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(end.Unix()), Subject: pkix.Name{CommonName: "injector"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	write(t, filepath.Join(dir, "tls.key"), keyPEM)
	write(t, filepath.Join(dir, "tls.crt"), certPEM)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func trusting(c tls.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Leaf)
	return pool
}

// write replaces a file as the kubelet does: no reader finds half of it.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (r *running) ops(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.opsAddr.String() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// admit sends the review and returns the patch that comes back.
func (r *running) admit(trust *x509.CertPool) string {
	r.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post("https://"+r.address+"/mutate", "application/json", strings.NewReader(review))
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.TLS.Version < tls.VersionTLS12 || resp.ProtoMajor != 2 {
		r.t.Errorf("answered by %s, TLS %x", resp.Proto, resp.TLS.Version)
	}
	var answer struct {
		Response struct {
			Allowed bool
			Patch   []byte
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !answer.Response.Allowed {
		r.t.Fatalf("answer %+v: %v", answer, err)
	}
	return string(answer.Response.Patch)
}

func TestServe(t *testing.T) {
	r := start(t)

	// Alive, but not ready before there is a certificate.
	r.await("waiting for certificate")
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(time.Minute); ; {
		code, body := r.ops("/readyz")
		if code == 503 && strings.Contains(body, "tls.crt") {
			break
		}
		select {
		case <-poll.C:
			if code == 503 && strings.HasSuffix(body, ": it has not been read yet\n") {
				continue
			}
		case <-deadline:
		}
		t.Fatalf("/readyz without certificate: %d %s", code, body)
	}
	if code, _ := r.ops("/livez"); code != 200 {
		t.Errorf("/livez without certificate: %d", code)
	}
	end := time.Now().Add(24 * time.Hour)
	trust := r.certify(end)
	r.await("starting webhook")
	r.await("")
	if code, body := r.ops("/readyz"); code != 200 || body != "ready\ncertificate: from files in "+r.dir+", until "+end.UTC().Format(time.RFC3339)+"\n" {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if patch := r.admit(trust); !strings.Contains(patch, "one.example") {
		t.Errorf("patch by the first configuration: %s", patch)
	}

	// A new configuration is taken over.
	r.configure("two")
	r.config.reload()
	if patch := r.admit(trust); !strings.Contains(patch, "two.example") {
		t.Errorf("patch by the second configuration: %s", patch)
	}
	// A broken one is not, which is said once; what was good goes on.
	r.write("config.yaml", []byte("conections: {}"))
	r.config.reload()
	r.config.reload()
	if patch := r.admit(trust); !strings.Contains(patch, "two.example") {
		t.Errorf("patch with a broken configuration: %s", patch)
	}
	if code, body := r.ops("/readyz"); code != 200 || !strings.Contains(body, "conections: unknown key") {
		t.Errorf("/readyz with a broken configuration: %d %s", code, body)
	}
	if n := strings.Count(r.log.String(), "keeping last good configuration"); n != 1 {
		t.Errorf("a broken configuration was reported %d times", n)
	}
	_, text := r.ops("/metrics")
	for _, line := range []string{
		`latchkey_injector_admissions_total{decision="injected",namespace="shop",reason="asked-for"} 3`,
		`latchkey_injector_admission_duration_seconds_count 3`,
		`latchkey_injector_config_generation 2`,
		`latchkey_injector_config_last_reload_successful 0`,
		`latchkey_injector_build_info{version="dev"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no %s in the metrics", line)
		}
	}
	r.configure("two")
	r.config.reload()
	if code, body := r.ops("/readyz"); code != 200 || strings.Contains(body, "configuration") {
		t.Errorf("/readyz after the repair: %d %s", code, body)
	}

	// The end: not ready at once, but serving until the time is up.
	r.stop()
	r.await("shutting down")
	if code, _ := r.ops("/readyz"); code != 503 {
		t.Errorf("/readyz while draining: %d", code)
	}
	if patch := r.admit(trust); patch == "" {
		t.Error("no patch while draining")
	}
	if err := r.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Whoever sends a body slowly, or never ends it, does not hold a connection.
func TestSlowBodiesEnd(t *testing.T) {
	answered := make(chan error, 1)
	srv := httptest.NewUnstartedServer(within(100*time.Millisecond, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		answered <- err
	})))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	for _, protocol := range []string{"http/1.1", "h2"} {
		transport := srv.Client().Transport.(*http.Transport).Clone()
		transport.ForceAttemptHTTP2 = protocol == "h2"
		transport.TLSClientConfig.NextProtos = []string{protocol}
		body, end := io.Pipe()
		go func() {
			resp, err := (&http.Client{Transport: transport}).Post(srv.URL, "application/json", body)
			if err == nil {
				_ = resp.Body.Close()
			}
		}()
		if _, err := end.Write([]byte("{")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-answered:
			if err == nil || !strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: reading the body ended with %v", protocol, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: still reading the body", protocol)
		}
		_ = end.Close()
		transport.CloseIdleConnections()
	}
}

// What is wrong from the start ends the program with words.
func TestServeRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("connections: {default: {address: vault}}\nnope: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Options{Listen: "127.0.0.1:8443", OpsListen: "127.0.0.1:0", CertDir: dir, Log: slog.New(slog.DiscardHandler)}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"bad configuration":    {func(o *Options) { o.ConfigFile = bad }, "nope: unknown key"},
		"no configuration":     {func(o *Options) { o.ConfigFile = filepath.Join(dir, "none") }, "no such file"},
		"no address":           {func(o *Options) { o.Listen = "8443" }, `"8443" (host:port`},
		"no port":              {func(o *Options) { o.Listen = ":https" }, "number from 1 to 65535"},
		"no ops certificate":   {func(o *Options) { o.OpsCertDir = dir }, "reading certificate for probes and metrics: open "},
		"no leaf of that life": {func(o *Options) { o.SelfManaged = &certs.SelfManaged{LeafDuration: time.Second} }, "--leaf-duration is 1s (at least 30s)"},
		"no CA of that life": {func(o *Options) { o.SelfManaged = &certs.SelfManaged{LeafDuration: time.Hour, CADuration: time.Hour} },
			"--ca-duration is 1h0m0s (at least twice --leaf-duration, which is 1h0m0s)"},
		"no ops address": {func(o *Options) { o.OpsListen = "127.0.0.1:99999" }, "listening for probes"},
	} {
		o := good
		c.change(&o)
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A replica whose certificate has expired is not ready, until there is another.
func TestServeWithExpiredCertificate(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	r.certify(time.Now().Add(-time.Minute))
	r.await("starting webhook")
	r.await("")
	if code, body := r.ops("/readyz"); code != 503 || !strings.Contains(body, "not ready: the certificate and its CA are valid from") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	r.certify(time.Now().Add(time.Hour))
	for deadline := time.After(time.Minute); ; {
		code, body := r.ops("/readyz")
		if code == 200 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("/readyz with a good certificate: %d %s", code, body)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// Asked to end while it waits for a certificate, it ends.
func TestServeEndsWithoutCertificate(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	if err := r.end(); err != nil {
		t.Errorf("ended with %v", err)
	}
}
