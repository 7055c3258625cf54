package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// Problem is why something did not work, in one line that says what to do.
type Problem struct {
	Text string
	// Act means that someone must change something; otherwise it is expected
	// to pass by itself. Both are retried.
	Act bool
	// Everywhere means that every other call to this server fails as well.
	Everywhere bool
	// InvalidToken means that the Vault token is not valid any more.
	InvalidToken bool
	// NeedsLogin means that only a new login can help, or tell more.
	NeedsLogin bool
	// Denied means that the token is valid and its policies say no.
	Denied bool
	// Missing means that there is no such secret.
	Missing bool
	// RetryAfter is how long the server asks to be left alone.
	RetryAfter time.Duration
	// status and said are the answer of Vault, where it was one.
	status int
	said   string
}

func (p *Problem) Error() string { return p.Text }

// classify words the failure of one call. It never quotes an answer that is
// not Vault's own, which may hold anything.
func classify(doing string, err error, e *exchange) *Problem {
	p := &Problem{RetryAfter: e.retryAfter}
	var response *api.ResponseError
	var redirect redirected
	var own *Problem
	switch {
	case errors.As(err, &response):
		p.status = response.StatusCode
		if !response.RawError {
			p.said = e.quote(strings.Join(response.Errors, "; "))
		}
		p.judge()
		text := fmt.Sprintf("%d", p.status)
		switch {
		case p.said != "":
			text = fmt.Sprintf("%s (%d)", p.said, p.status)
		case response.RawError:
			text = fmt.Sprintf("answered %d with what is no answer of Vault (is something between agent and Vault?)", p.status)
		}
		p.Text = doing + ": " + text
	case errors.As(err, &redirect):
		p.Everywhere = true
		p.Text = doing + ": " + redirect.Error() + " (a standby that does not forward; it is asked again)"
	case isTrust(err):
		p.Act, p.Everywhere = true, true
		p.Text = doing + ": " + e.quote(cause(err)) + " (correct the connection's ca or tlsServerName, or the server's certificate)"
	case errors.As(err, &own): // the transport's
		p.Act, p.Everywhere, p.RetryAfter = own.Act, true, max(own.RetryAfter, p.RetryAfter)
		p.Text = doing + ": " + own.Text
	case errors.Is(err, context.DeadlineExceeded):
		p.Everywhere = true
		p.Text = doing + ": no answer in time"
	case errors.Is(err, errTooLong):
		p.Act = true
		p.Text = doing + ": " + errTooLong.Error()
	case e.status != 0:
		// It came whole and is no JSON. Other paths may fare better.
		p.Text = fmt.Sprintf("%s: answered %d with what is no answer of Vault (is something between agent and Vault?)", doing, e.status)
	default:
		p.Everywhere = true
		p.Text = doing + ": " + e.quote(cause(err))
	}
	return p
}

// judge sets what the status code and Vault's own words mean for any call.
func (p *Problem) judge() {
	switch {
	case p.status == http.StatusForbidden && strings.Contains(p.said, "invalid token"):
		p.InvalidToken, p.NeedsLogin = true, true
	case p.status == http.StatusForbidden:
		p.Denied, p.Act = true, true
	case p.status == http.StatusTooManyRequests, p.status == http.StatusServiceUnavailable, p.status == http.StatusBadGateway,
		p.status == http.StatusGatewayTimeout, p.status == http.StatusPreconditionFailed, p.status == 472, p.status == 473:
		p.Everywhere = true
	case p.status >= 500:
		// One engine's failure is not the server's.
	default:
		p.Act = true
	}
}

// cause strips the URL that net/http puts in front, since doing says it better,
// and the local port, which would make the message another at each try.
func cause(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsTimeout {
		return fmt.Sprintf("looking up %q: no answer of the DNS server %s", dns.Name, dns.Server)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		without := *op
		without.Source = nil
		return without.Error()
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}

// maxQuote bounds what is quoted of others, in bytes.
const maxQuote = 1 << 10

// quote makes what came over the network fit a log line and an Event: short,
// and without the credentials that the call carried, should it come back.
func (e *exchange) quote(s string) string {
	for _, hidden := range e.hide {
		if secret := hidden.Reveal(); secret != "" {
			s = strings.ReplaceAll(s, secret, sealed.Placeholder)
		}
	}
	return cut(vaulterr.OneLine(s), maxQuote)
}
