package vaultconn

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Dial makes a transport that trusts what v says and follows its files: the CA's
// is read again for each call, those of the client certificate for each
// connection. That the CA's file is not there is an error.
func Dial(v config.Vault, log *slog.Logger) (http.RoundTripper, error) {
	f := &follower{vault: v, log: log}
	pem := []byte(v.CA)
	if v.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(v.CAFile); err != nil {
			return nil, fmt.Errorf("reading the CA of %s: %w", v.Address, err)
		}
	}
	if err := f.trust(pem); err != nil {
		return nil, err
	}
	return f, nil
}

type follower struct {
	vault config.Vault
	log   *slog.Logger

	mu   sync.Mutex
	pem  []byte // what next trusts
	next *http.Transport
	told string // why the CA is not followed, as last told
}

func (f *follower) RoundTrip(r *http.Request) (*http.Response, error) {
	return f.current().RoundTrip(r)
}

// current reads the CA again. Where that fails, the one of before is good until
// proven otherwise.
func (f *follower) current() *http.Transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.vault.CAFile == "" {
		return f.next
	}
	pem, err := os.ReadFile(f.vault.CAFile)
	if err == nil && !bytes.Equal(pem, f.pem) {
		before := f.next
		if err = f.trust(pem); err == nil {
			before.CloseIdleConnections()
			f.log.Info("the CA of Vault has changed", "file", f.vault.CAFile)
		}
	}
	switch {
	case err == nil:
		f.told = ""
	case f.told != err.Error():
		f.told = err.Error()
		f.log.Warn("keeping the CA of before", "reason", err)
	}
	return f.next
}

// trust makes the transport that trusts pem, or the system's roots where the
// configuration has no CA.
func (f *follower) trust(pem []byte) error {
	v := f.vault
	var roots *x509.CertPool
	if v.CA != "" || v.CAFile != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("reading the CA of %s: %s holds no certificate (a PEM bundle)", v.Address, v.CAFile)
		}
	}
	var certificate func() (*tls.Certificate, error)
	if v.ClientCert != "" {
		certificate = func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(v.ClientCert, v.ClientKey)
			if err != nil {
				return nil, fmt.Errorf("reading the client certificate: %w", err)
			}
			return &pair, nil
		}
	}
	next, err := Transport(v, roots, certificate)
	if err != nil {
		return err
	}
	f.pem, f.next = pem, next
	return nil
}
