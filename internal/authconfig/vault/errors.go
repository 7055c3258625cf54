package vault

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// Error is a call to Vault that did not do what it should.
type Error struct {
	Doing  string // what was done with which path
	Status int    // of the answer; 0 where there was none, or where it was not the problem
	Said   string // by Vault or the network, on one line
	Remedy string // empty where it says itself
	cause  error
}

func (e *Error) Error() string {
	text := e.Doing + ": " + e.Said
	if e.Status != 0 {
		text += fmt.Sprintf(" (%d)", e.Status)
	}
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	return text
}

func (e *Error) Unwrap() error { return e.cause }

// spent reports that the token has run out or was revoked.
func (e *Error) spent() bool {
	return e.Status == http.StatusForbidden && strings.Contains(e.Said, "invalid token")
}

// denied reports that the token is good and its policies do not allow the call.
func (e *Error) denied() bool { return e.Status == http.StatusForbidden && !e.spent() }

// Unavailable reports that Vault gave no answer, or none that is about this call:
// the next will end alike.
func (e *Error) Unavailable() bool {
	return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= 500
}

// noToken is why there is no token to make a call with.
type noToken struct{ error }

func (n noToken) Unwrap() error { return n.error }

func (n noToken) Unavailable() bool { return true }

// between is the remedy for answers that are none of Vault's.
const between = "is something between here and Vault?"

var errNoData = errors.New("the answer lacks what it should hold")

// noRoute is a 404 for a path that Vault has nothing behind.
type noRoute struct{ errors []string }

func (n noRoute) Error() string { return strings.Join(n.errors, "; ") }

// notVault is an answer of a status that Vault sends too, but not in this form.
type notVault struct{ status int }

func (n notVault) Error() string {
	return fmt.Sprintf("answered %d with what is no answer of Vault", n.status)
}

// failure says what went wrong. What Vault says is quoted without the secrets.
func (c *Client) failure(doing, path string, err error, secrets ...sealed.Value[string]) *Error {
	e := &Error{Doing: doing, Said: err.Error(), cause: err}
	var outer *url.Error // which has the whole URL
	if errors.As(err, &outer) {
		e.Said = outer.Err.Error()
	}
	var answer *api.ResponseError
	var missing noRoute
	switch {
	case errors.As(err, &missing):
		e.Status, e.Said = http.StatusNotFound, missing.Error()
		if strings.Contains(e.Said, "no handler for route") && strings.HasPrefix(path, "auth/"+c.mount) {
			e.Remedy = "there is no auth method at auth/" + c.mount
		}
	case errors.As(err, &answer) && answer.RawError:
		e.Status, e.Said, e.Remedy, e.cause = answer.StatusCode, "the answer is none of Vault's", between, nil
		if strings.Contains(strings.Join(answer.Errors, ""), "Client sent an HTTP request to an HTTPS server") { // as net/http says it
			e.Said, e.Remedy = "Vault speaks TLS there", "begin vault.address with https://"
		}
	case errors.As(err, &answer):
		e.Status, e.Said = answer.StatusCode, strings.Join(answer.Errors, "; ")
		e.cause = nil // which would print what Vault said
		if e.Said == "" {
			e.Said = "Vault says no more than the status"
		}
	case errors.Is(err, context.DeadlineExceeded):
		e.Said = fmt.Sprintf("no answer from %s in time", c.vault.Address)
	default:
		e.Remedy = remedy(err)
	}
	for _, s := range secrets {
		if secret := s.Reveal(); secret != "" {
			e.Said = strings.ReplaceAll(e.Said, secret, sealed.Placeholder)
		}
	}
	e.Said = vaulterr.OneLine(e.Said)
	return e
}

// remedy is what helps where Vault gave no answer of its own.
func remedy(err error) string {
	switch {
	case errors.As(err, new(vaultconn.Redirected)):
		return "a standby sends elsewhere: use the address of the active server, or let standbys forward"
	case errors.As(err, new(notVault)), errors.As(err, new(*json.SyntaxError)), errors.Is(err, errNoData):
		return between
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "vault.ca or vault.caFile must hold the CA that issued Vault's certificate"
	case errors.As(err, new(x509.HostnameError)):
		return "set vault.tlsServerName to a name that Vault's certificate has, or use such an address"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "begin vault.address with http://, or turn on TLS"
	}
	return ""
}
