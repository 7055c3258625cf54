// Package vaultconn makes clients for Vault that do what they are told: the
// environment has no say in them, a redirect is an error, and nothing is tried
// twice.
package vaultconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// DialTimeout bounds each of dialling and the TLS handshake.
const DialTimeout = 5 * time.Second

// Redirected is an answer of 3xx: a standby that does not forward. The library
// takes it for success with nothing in it.
type Redirected struct{ Status int }

func (r Redirected) Error() string { return fmt.Sprintf("answered %d, a redirect", r.Status) }

// Transport makes one that verifies Vault by the roots, or by the system's where
// they are nil. The certificate is asked for at each connection and may be nil.
func Transport(v config.Vault, roots *x509.CertPool, clientCertificate func() (*tls.Certificate, error)) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: v.TLSServerName, RootCAs: roots}
	if clientCertificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return clientCertificate() }
	}
	var proxy func(*http.Request) (*url.URL, error)
	if v.Proxy != "" {
		u, err := url.Parse(v.Proxy)
		if err != nil {
			return nil, errors.New("its proxy is not a URL")
		}
		proxy = http.ProxyURL(u)
	}
	return &http.Transport{
		Proxy:               proxy,
		DialContext:         (&net.Dialer{Timeout: DialTimeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: DialTimeout,
		ForceAttemptHTTP2:   true,
		// A connection that a partition cut silently is noticed in seconds, not when
		// TCP gives up after a quarter of an hour.
		HTTP2:               &http.HTTP2Config{SendPingTimeout: DialTimeout, PingTimeout: DialTimeout},
		MaxIdleConnsPerHost: 8,
		// Shorter than any refresh: an idle agent holds no connection.
		IdleConnTimeout: 20 * time.Second,
	}, nil
}

// strict makes an error of a redirect.
type strict struct{ next http.RoundTripper }

func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.next.RoundTrip(r)
	if err == nil && response.StatusCode >= 300 && response.StatusCode < 400 {
		response.Body.Close()
		return nil, Redirected{response.StatusCode}
	}
	return response, err
}

// Client makes a client for one Vault namespace, without a token. A call through
// api.Client.Logical takes timeout at most, and a redirect fails it with Redirected.
func Client(v config.Vault, t http.RoundTripper, namespace string, timeout time.Duration) (*api.Client, error) {
	// The library reads these whatever it is given.
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "VAULT_") {
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("clearing %s: %w", name, err)
			}
		}
	}
	c, err := api.NewClient(&api.Config{
		Address:          v.Address,
		HttpClient:       &http.Client{Transport: strict{t}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Timeout:          timeout,
		MaxRetries:       0,
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making a client for Vault: %w", err)
	}
	c.SetWrappingLookupFunc(func(string, string) string { return "" })
	c.ClearToken()
	c.ClearNamespace()
	if namespace != "" {
		c.SetNamespace(namespace)
	}
	for name, value := range v.Headers {
		c.AddHeader(name, value)
	}
	return c, nil
}
