package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// authority is a CA that signs for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(name, true)
	return a
}

func (a *authority) sign(name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if isCA {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte { return certificatePEM(a.cert) }

func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (a *authority) leaf(name string) *tls.Certificate {
	cert, key := a.sign(name, false)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// write replaces a file as the kubelet does: in one step.
func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// A rotated CA reaches an agent that runs, which lets go of the connections it
// has; a broken or missing file does not stop it, and is told of.
func TestCARotation(t *testing.T) {
	var mu sync.Mutex
	one, two := newAuthority(t, "one"), newAuthority(t, "two")
	leaf := one.leaf("vault")
	dialled := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	server.EnableHTTP2 = true
	var connected atomic.Int32
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connected.Add(1)
		case http.StateClosed:
			connected.Add(-1)
		}
	}
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		dialled++
		return &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2"}}, nil
	}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()

	p := newPod(t, env("db.env", "kv/app"))
	file := filepath.Join(t.TempDir(), "ca.crt")
	write(t, file, one.pem())
	v := config.Vault{Address: server.URL, CAFile: file}
	tr, err := dial(v, slog.New(slog.NewTextHandler(p.logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	get := func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return err
	}
	good := func(connections int) {
		t.Helper()
		for range 3 {
			if err := get(); err != nil {
				t.Fatal(err)
			}
		}
		if dialled != connections {
			t.Errorf("%d connections, want %d", dialled, connections)
		}
	}
	good(1)
	write(t, file, []byte("not a certificate"))
	good(1)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	good(1)
	if n := strings.Count(p.logs.String(), "keeping the CA of before"); n != 2 {
		t.Errorf("told %d times of two faults:\n%s", n, p.logs)
	}

	mu.Lock()
	leaf = two.leaf("vault")
	mu.Unlock()
	write(t, file, append(one.pem(), two.pem()...))
	good(2)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(time.Minute); connected.Load() != 1; <-poll.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, want only the new one", connected.Load())
		}
	}
	write(t, file, one.pem()) // does not trust what Vault shows by now
	if err := get(); err == nil || !isTrust(err) {
		t.Errorf("got %v", err)
	}
	write(t, file, two.pem())
	good(4)
}

// Client certificates are read for each connection; a proxy, headers and a time
// limit are used as they are set.
func TestConnectionSettings(t *testing.T) {
	ca := newAuthority(t, "clients")
	p := newPod(t, env("db.env", "kv/app"))
	var mu sync.Mutex
	seen := make(map[string]bool)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.TLS.PeerCertificates[0].Subject.CommonName] = true
		mu.Unlock()
		if r.URL.Path == "/probe" {
			return
		}
		if got := r.Header.Get("X-Team"); got != "shop" {
			t.Errorf("%s: header %q", r.URL.Path, got)
		}
		p.vault.ServeHTTP(w, r)
		w.Header().Set("Connection", "close")
	}))
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, Certificates: []tls.Certificate{*ca.leaf("vault")}}
	server.Config.SetKeepAlivesEnabled(false)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	through := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Errorf("the proxy was asked to %s %s", r.Method, r.URL)
			return
		}
		mu.Lock()
		through++
		mu.Unlock()
		tunnel(w, r.Host)
	}))
	defer proxy.Close()

	dir := t.TempDir()
	p.conf.Vault.Address, p.conf.Vault.CA = server.URL, string(ca.pem())
	p.conf.Vault.ClientCert, p.conf.Vault.ClientKey = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	p.conf.Vault.Proxy, p.conf.Vault.Headers = proxy.URL, map[string]string{"X-Team": "shop"}
	show := func(name string) {
		leaf := ca.leaf(name)
		key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		write(t, p.conf.Vault.ClientCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
		write(t, p.conf.Vault.ClientKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	}
	show("before")
	c := p.startReal(t)
	p.wait(t)
	show("after")
	// Each connection carries one call. Those that were dialled while another
	// became free show what was read before, or are closed by now.
	shown := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen["after"]
	}
	for tries := 0; tries < 50 && !shown(); tries++ {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/probe", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := c.agent.transport.RoundTrip(r); err == nil {
			resp.Body.Close()
		}
	}
	if err := c.terminate(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !seen["before"] || !seen["after"] || through < 4 {
		t.Errorf("certificates shown: %v, connections through the proxy: %d", seen, through)
	}
}

// tunnel carries bytes both ways until one side is done.
func tunnel(w http.ResponseWriter, to string) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer out.Close()
	w.WriteHeader(http.StatusOK)
	in, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	go func() { _, _ = io.Copy(out, in) }()
	_, _ = io.Copy(in, out)
}

// The files of a client certificate that are not there yet are named.
func TestClientCertificateIsMissing(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	ca := newAuthority(t, "clients")
	server := httptest.NewUnstartedServer(p.vault)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{*ca.leaf("vault")}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	p.conf.Vault.Address, p.conf.Vault.CA = server.URL, string(ca.pem())
	p.conf.Vault.ClientCert, p.conf.Vault.ClientKey = "/nonexistent/tls.crt", "/nonexistent/tls.key"
	c := p.startReal(t)
	p.wantReason(t, "reading the client certificate /nonexistent/tls.crt and its key: open /nonexistent/tls.crt: no such file or directory (does what holds them exist in the pod's namespace")
	if err := c.terminate(); err != nil {
		t.Error(err)
	}
}

// A time limit of the connection's own bounds each call.
func TestTimeout(t *testing.T) {
	p := newPod(t, env("db.env", "kv/app"))
	asked := make(chan struct{}, 100)
	p.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	p.conf.Vault.Timeout = config.Duration(time.Second)
	c := p.startReal(t)
	for range 2 {
		<-asked
	}
	p.wantReason(t, "no answer in time")
	if err := c.terminate(); err != nil {
		t.Error(err)
	}
}
