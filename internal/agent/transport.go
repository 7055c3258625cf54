package agent

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
)

// transport carries all calls to Vault. It follows the file with the CA, so
// that a rotated one reaches pods that run. The environment has no say in it:
// no proxy, no certificate, no address.
type transport struct {
	vault config.Vault
	log   *slog.Logger

	mu   sync.Mutex
	pem  []byte // what next trusts
	next *http.Transport
	told string // why the CA is not followed, as last told
}

// dial makes a transport. That the file with the CA is not there yet is an
// error: a volume may come later than the agent.
func dial(v config.Vault, log *slog.Logger) (*transport, error) {
	pem := []byte(v.CA)
	if v.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(v.CAFile); err != nil {
			return nil, &Problem{Act: true, Text: fmt.Sprintf("reading the CA of %s: %v (does what holds it exist in the pod's namespace?)", v.Address, err)}
		}
	}
	next, err := connections(v, pem)
	if err != nil {
		return nil, err
	}
	return &transport{vault: v, log: log, pem: pem, next: next}, nil
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

// current reads the CA again. Where that fails, the one of before is good until
// proven otherwise.
func (t *transport) current() *http.Transport {
	if t.vault.CAFile == "" {
		return t.next
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	pem, err := os.ReadFile(t.vault.CAFile)
	if err == nil && bytes.Equal(pem, t.pem) {
		t.told = ""
		return t.next
	}
	var next *http.Transport
	if err == nil {
		next, err = connections(t.vault, pem)
	}
	if err != nil {
		if t.told != err.Error() {
			t.told = err.Error()
			t.log.Warn("keeping the CA of before", "reason", err)
		}
		return t.next
	}
	t.log.Info("the CA has changed", "file", t.vault.CAFile)
	t.next.CloseIdleConnections()
	t.pem, t.next, t.told = pem, next, ""
	return next
}

// connections makes the transport that trusts pem, or the system's roots where
// it is empty.
func connections(v config.Vault, pem []byte) (*http.Transport, error) {
	var roots *x509.CertPool
	if v.CA != "" || v.CAFile != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, &Problem{Act: true, Text: fmt.Sprintf("reading the CA of %s: %s holds no certificate (a PEM bundle)", v.Address, v.CAFile)}
		}
	}
	var certificate func() (*tls.Certificate, error)
	if v.ClientCert != "" {
		certificate = func() (*tls.Certificate, error) {
			pair, p := clientCertificate(v.ClientCert, v.ClientKey)
			if p != nil {
				return nil, p
			}
			return pair, nil
		}
	}
	return vaultconn.Transport(v, roots, certificate)
}

// isTrust reports a server certificate that does not convince.
func isTrust(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host)
}
