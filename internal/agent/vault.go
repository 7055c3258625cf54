package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

const (
	requestTimeout = 20 * time.Second // one call to Vault, from dialling to the last byte
	revokeTimeout  = 1500 * time.Millisecond
	maxAnswer      = 16 << 20 // bytes; Vault's own default for requests is 32 MiB
)

// dial makes the transport that all calls to Vault share. The environment has
// no say in it: no proxy, no certificate, no address.
func dial(v config.Vault) (http.RoundTripper, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: v.TLSServerName}
	pem := []byte(v.CA)
	if v.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(v.CAFile); err != nil {
			return nil, &Problem{Act: true, Text: fmt.Sprintf("reading the CA of %s: %v (is the volume that holds it mounted?)", v.Address, err)}
		}
	}
	if v.CA != "" || v.CAFile != "" {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &Problem{Act: true, Text: fmt.Sprintf("reading the CA of %s: %s holds no certificate (a PEM bundle)", v.Address, v.CAFile)}
		}
	}
	return &http.Transport{
		Proxy:               nil,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// A connection that a partition cut silently is noticed in seconds, not
		// when TCP gives up after a quarter of an hour.
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
		MaxIdleConnsPerHost: concurrency,
		// Shorter than any refresh: an idle agent holds no connection.
		IdleConnTimeout: 20 * time.Second,
	}, nil
}

// newClient makes a client for one namespace. Without a token it sends none: a
// login that carries a stale one may be refused for it.
func newClient(address string, transport http.RoundTripper, namespace string, token sealed.Value[string]) (*api.Client, error) {
	// The library reads these whatever it is given, some of them at each call.
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "VAULT_") {
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("clearing %s: %w", name, err)
			}
		}
	}
	c, err := api.NewClient(&api.Config{
		Address:          address,
		HttpClient:       &http.Client{Transport: strict{transport}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Timeout:          requestTimeout,
		MaxRetries:       0,
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making a client for Vault: %w", err)
	}
	c.SetWrappingLookupFunc(func(string, string) string { return "" })
	c.ClearNamespace()
	if namespace != "" {
		c.SetNamespace(namespace)
	}
	c.ClearToken()
	if t := token.Reveal(); t != "" {
		c.SetToken(t)
	}
	return c, nil
}

// strict turns what the library would take for an answer, or drop, into errors.
type strict struct{ next http.RoundTripper }

// exchange is what the library hides of one answer. A call puts it into its
// context; strict fills it.
type exchange struct {
	status     int
	retryAfter time.Duration
	keepBody   bool
	body       sealed.Value[[]byte]
	hide       sealed.Value[string] // the credential that the call carries
}

type exchangeKey struct{}

var errTooLong = fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20)

func watch(ctx context.Context, e *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, e)
}

// redirected is an answer of 3xx: a standby that does not forward. The library
// takes it for success with nothing in it, so that a secret would seem gone.
type redirected struct{ status int }

func (r redirected) Error() string {
	return fmt.Sprintf("answered %d %s, which is not followed", r.status, http.StatusText(r.status))
}

func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	e, watched := r.Context().Value(exchangeKey{}).(*exchange)
	if !watched {
		e = &exchange{}
	}
	if token := r.Header.Get(api.AuthHeaderName); token != "" {
		e.hide = sealed.Of(token)
	}
	resp, err := s.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		resp.Body.Close()
		return nil, redirected{resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errTooLong
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	e.status = resp.StatusCode
	e.retryAfter = retryAfter(resp.Header.Get("Retry-After"))
	if e.keepBody {
		e.body = sealed.Of(body)
	}
	return resp, nil
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
// What is longer than an hour is cut to it.
func retryAfter(header string) time.Duration {
	d, err := time.ParseDuration(header + "s")
	if err != nil {
		at, err := http.ParseTime(header)
		if err != nil {
			return 0
		}
		d = time.Until(at)
	}
	return min(max(d, 0), time.Hour)
}

// isTrust reports a server certificate that does not convince.
func isTrust(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host)
}
