package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
)

const (
	requestTimeout = 20 * time.Second // one call to Vault, from dialling to the last byte
	revokeTimeout  = 1500 * time.Millisecond
	maxAnswer      = 16 << 20 // bytes; Vault's own default for requests is 32 MiB
)

// newClient makes a client for one namespace. Without a token it sends none: a
// login that carries a stale one may be refused for it.
func newClient(v config.Vault, transport http.RoundTripper, namespace string, token sealed.Value[string]) (*api.Client, error) {
	c, err := vaultconn.Client(v, strict{transport}, namespace, callTimeout(v))
	if err != nil {
		return nil, err
	}
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
	date       time.Time // by the server's clock; zero where it does not say
	keepBody   bool
	body       sealed.Value[[]byte]
	hide       []sealed.Value[string] // the credentials that the call carries
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

// errNotVault is a 404 that Vault did not send. Taken for one, it would make a
// secret seem gone because of a proxy that has no route.
var errNotVault = errors.New("answered 404 with what is no answer of Vault")

// isVaults reports whether the body of a 404 is Vault's own: it has a list of
// errors, or data for a KV v2 secret whose version is deleted.
func isVaults(body []byte) bool {
	var answer struct {
		Errors []string       `json:"errors"`
		Data   map[string]any `json:"data"`
	}
	return json.Unmarshal(body, &answer) == nil && (answer.Errors != nil || answer.Data != nil)
}

func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	e, watched := r.Context().Value(exchangeKey{}).(*exchange)
	if !watched {
		e = &exchange{}
	}
	if token := r.Header.Get(api.AuthHeaderName); token != "" {
		e.hide = append(e.hide, sealed.Of(token))
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
	e.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if e.status == http.StatusNotFound && !isVaults(body) {
		return nil, errNotVault
	}
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
