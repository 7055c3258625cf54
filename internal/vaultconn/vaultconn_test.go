package vaultconn

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func certificate(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// call asks a server for something and returns what it says.
func call(t *testing.T, v config.Vault, transport http.RoundTripper) (string, error) {
	t.Helper()
	c, err := Client(v, transport, "", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.Logical().ReadWithContext(t.Context(), "x")
	if err != nil {
		return "", err
	}
	said, _ := answer.Data["said"].(string)
	return said, nil
}

// A CA file that changes is followed, one that cannot be read or used is not,
// and nothing but the CA's certificate is trusted.
func TestDialFollowsTheCA(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"data":{"said":"hello"}}`)
	}))
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of refused handshakes
	file := filepath.Join(t.TempDir(), "ca.crt")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := config.Vault{Address: server.URL, CAFile: file}
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if _, err := Dial(v, logger); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a CA file that is not there: %v", err)
	}
	write("nothing")
	if _, err := Dial(v, logger); err == nil || !strings.Contains(err.Error(), file+" holds no certificate (a PEM bundle)") {
		t.Errorf("a CA file of no certificate: %v", err)
	}
	write(stranger)
	transport, err := Dial(v, logger)
	if err != nil {
		t.Fatal(err)
	}
	var untrusted *tls.CertificateVerificationError
	if _, err := call(t, v, transport); !errors.As(err, &untrusted) {
		t.Errorf("a server of another CA: %v", err)
	}
	write(certificate(server))
	if said, err := call(t, v, transport); err != nil || said != "hello" {
		t.Errorf("after the CA changed: %q, %v", said, err)
	}
	write("half")
	for range 2 {
		if _, err := call(t, v, transport); err != nil {
			t.Errorf("with a broken CA file: %v", err)
		}
	}
	if n := strings.Count(log.String(), "keeping the CA of before"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
	other := config.Vault{Address: server.URL, CA: certificate(server), TLSServerName: "other.example"}
	if transport, err = Dial(other, logger); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, other, transport); !errors.As(err, &untrusted) {
		t.Errorf("a certificate of another name: %v", err)
	}
}

// A redirect is an error, and what the environment says of Vault is not heard.
func TestClient(t *testing.T) {
	var seen []*http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r)
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	for name, value := range map[string]string{"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "t", "VAULT_NAMESPACE": "n", "VAULT_WRAP_TTL": "5m", "VAULT_MAX_RETRIES": "5", "VAULT_SKIP_VERIFY": "true", "HTTP_PROXY": "http://127.0.0.1:1"} {
		t.Setenv(name, value)
	}
	v := config.Vault{Address: server.URL, Headers: map[string]string{"X-Tenant": "blue"}}
	transport, err := Dial(v, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var redirected Redirected
	if _, err := call(t, v, transport); !errors.As(err, &redirected) || redirected.Status != http.StatusTemporaryRedirect {
		t.Errorf("got %v", err)
	}
	if len(seen) != 1 {
		t.Fatalf("%d calls", len(seen))
	}
	for name, want := range map[string]string{"X-Vault-Token": "", "X-Vault-Namespace": "", "X-Vault-Wrap-Ttl": "", "X-Tenant": "blue", "X-Vault-Request": "true"} {
		if got := seen[0].Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// stranger is a CA that has issued nothing.
const stranger = `-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUW61hY9kyUKE4EVKjkFO6aJsTHI8wCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIc3RyYW5nZXIwIBcNMjYxMTIyMDgyNTM3WhgPMjEyNjEwMjkw
ODI1MzdaMBMxETAPBgNVBAMMCHN0cmFuZ2VyMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAE+o+Dd839Dd9pXrYhlRWn699dSZnJtZjCN4QTRdlWVQkBsD9bYsOlFyLX
nQQ51FMjngJp6mUE+B5HNRpXEsz26aNTMFEwHQYDVR0OBBYEFGizkNdSrbJ4AOHY
rNp64kk5xadHMB8GA1UdIwQYMBaAFGizkNdSrbJ4AOHYrNp64kk5xadHMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMoE8NO4Gk/t1WPIolIl95fN
yp9+zoElguiVMhPg1GHvAiBuSCXnvlZlp0fL0278G1bPO4LdoaBcOfjTFIeK3sAq
ng==
-----END CERTIFICATE-----
`
