package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

const (
	// maxAsked bounds the body of an app's request, in bytes.
	maxAsked = 4 << 20
	// proxied bounds the requests of apps that are under way.
	proxied = 8
	// answerTimeout bounds how long an app may take to read an answer: those
	// that stand still must not keep the others from asking.
	answerTimeout = 30 * time.Second
)

// proxy passes requests of apps on to Vault, with the agent's token where they
// bring none. It shares the agent's transport, follows no redirect, and writes
// no path, header or body to the log.
type proxy struct {
	config *config.Agent
	vault  *url.URL
	login  string // the namespace of the agent's token
	ops    *ops
	log    *slog.Logger
	slots  chan struct{}
	shared shared
}

func newProxy(a *Agent) *proxy {
	at, err := url.Parse(a.config.Vault.Address)
	if err != nil {
		at = &url.URL{} // the configuration was checked
	}
	return &proxy{config: a.config, vault: at, login: a.loginNamespace(), ops: a.ops, log: a.log, slots: make(chan struct{}, proxied)}
}

// asked is one request of an app.
type asked struct {
	method, path, query string
	header              http.Header
	body                sealed.Value[[]byte]
	token               sealed.Value[string] // the one it is made with
	ours                bool                 // the token is the agent's
}

// answered is one answer, of Vault's or of the proxy's memory.
type answered struct {
	status int
	header http.Header
	body   sealed.Value[[]byte]
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-r.Context().Done():
		return
	}
	v := p.ops.view.Load()
	q, refused := p.read(w, r, v)
	if refused != nil {
		p.count("refused")
		refuse(w, refused.status, refused.text)
		return
	}
	if q.ours && !v.hasToken() {
		p.count("unavailable")
		refuse(w, http.StatusServiceUnavailable, "the agent has no Vault token at present; it logs in as soon as it can")
		return
	}
	a, result, err := p.answer(r.Context(), q, v)
	if err != nil {
		p.count("unavailable")
		text := "asking " + p.config.Vault.Address + ": " + vaulterr.OneLine(reasonOf(err))
		p.log.Debug("an app's request was not passed on", "reason", text)
		refuse(w, http.StatusServiceUnavailable, text)
		return
	}
	p.count(result)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // the connection's next request has none
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body.Reveal())
	}
}

func (p *proxy) count(result string) { p.ops.meter.inc(metricProxy, label("result", result)) }

// read takes a request in, or says why it is not passed on.
func (p *proxy) read(w http.ResponseWriter, r *http.Request, v *view) (*asked, *refusal) {
	if p.config.Local.Proxy.RequireHeader && r.Header.Get(requestHeader) != "true" {
		return nil, &refusal{http.StatusForbidden, "the header X-Vault-Request is missing (true)"}
	}
	at, refused := cleanPath(r.URL.Path)
	if refused != nil {
		return nil, refused
	}
	q := &asked{method: r.Method, path: at, query: r.URL.RawQuery, header: passed(r.Header)}
	own, token := v.token.Reveal(), r.Header.Get(api.AuthHeaderName)
	// Vault knows it in this header as well, but looks there last.
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && token == "" {
		token = bearer
	}
	if token == "" || token == own {
		token, q.ours = own, true
		q.header.Del("Authorization")
		if refused := guard(q.method, q.header.Get(namespaceHeader), q.path, r.Header.Get(wrapHeader) != ""); refused != nil {
			return nil, refused
		}
	}
	q.token = sealed.Of(token)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAsked))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return nil, &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is longer than %d MiB", maxAsked>>20)}
	case err != nil:
		return nil, &refusal{http.StatusBadRequest, "the request did not arrive whole"}
	}
	q.body = sealed.Of(body)
	return q, nil
}

const (
	requestHeader   = "X-Vault-Request"
	namespaceHeader = "X-Vault-Namespace"
	wrapHeader      = "X-Vault-Wrap-Ttl"
)

// hopByHop are the headers that are about one connection (RFC 9110, section
// 7.6.1), and those that would tell Vault of another client than the agent.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Accept-Encoding", "Content-Length", "Cookie", "Expect", "Forwarded", "Host", "X-Real-Ip",
}

// passed is what of an app's or of Vault's header is passed on.
func passed(h http.Header) http.Header {
	out := h.Clone()
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		out.Del(name)
	}
	for name := range out {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(out, name)
		}
	}
	return out
}

// answer answers from memory, or asks Vault. Requests that are the same go one
// after the other, so that a lease that one of them is given serves all.
func (p *proxy) answer(ctx context.Context, q *asked, v *view) (a *answered, result string, err error) {
	if q.header.Get(wrapHeader) != "" || !shareable(q.method) {
		a, err = p.pass(ctx, q, v)
		return a, "passed", err
	}
	key := p.key(q)
	release, err := p.shared.take(ctx, key)
	if err != nil {
		return nil, "", err
	}
	defer release()
	if a := p.shared.find(key, p.ops.view.Load()); a != nil {
		return a, "shared", nil
	}
	if a, err = p.pass(ctx, q, v); err == nil {
		p.shared.keep(key, a, q, p.ops.view.Load())
	}
	return a, "passed", err
}

// pass asks Vault.
func (p *proxy) pass(ctx context.Context, q *asked, v *view) (*answered, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout(p.config.Vault))
	defer cancel()
	header := q.header.Clone()
	if _, stated := header[namespaceHeader]; !stated && p.config.Vault.Namespace != "" {
		header.Set(namespaceHeader, p.config.Vault.Namespace)
	}
	if q.ours {
		header.Set(api.AuthHeaderName, q.token.Reveal())
	}
	a, err := p.send(ctx, v, q, header)
	if err != nil {
		return nil, err
	}
	switch {
	case a.status < 300 && strings.Contains(strings.ToLower(q.path), "revoke"):
		p.shared.forget()
	case q.ours && a.saysInvalid():
		p.doubt(ctx, q.token, v)
	}
	return a, nil
}

// send sends one request. Its URL is encoded anew from what was judged.
func (p *proxy) send(ctx context.Context, v *view, q *asked, header http.Header) (*answered, error) {
	if v.transport == nil {
		return nil, errors.New("the agent has not been able to connect yet")
	}
	at := url.URL{Scheme: p.vault.Scheme, Host: p.vault.Host, Path: "/v1/" + q.path, RawQuery: q.query}
	r, err := http.NewRequestWithContext(ctx, q.method, at.String(), bytes.NewReader(q.body.Reveal()))
	if err != nil {
		return nil, err
	}
	r.Header = header
	for name, value := range p.config.Vault.Headers {
		r.Header.Set(name, value)
	}
	r.Header.Set(requestHeader, "true")
	resp, err := v.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.StatusCode != http.StatusNotModified {
		return nil, redirected{resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errTooLong
	}
	// The agent's token, wherever an answer holds it, is not the app's to have.
	if own := v.token.Reveal(); own != "" {
		body = bytes.ReplaceAll(body, []byte(own), nil)
	}
	return &answered{resp.StatusCode, passed(resp.Header), sealed.Of(body)}, nil
}

func (a *answered) saysInvalid() bool {
	return a.status == http.StatusForbidden && bytes.Contains(a.body.Reveal(), []byte("invalid token"))
}

// doubt looks a token up that an answer calls invalid, since the words may have
// been meant for another one, such as that of a login. If it is, the agent logs
// in.
func (p *proxy) doubt(ctx context.Context, token sealed.Value[string], v *view) {
	header := http.Header{api.AuthHeaderName: {token.Reveal()}}
	if p.login != "" {
		header.Set(namespaceHeader, p.login)
	}
	a, err := p.send(ctx, v, &asked{method: http.MethodGet, path: "auth/token/lookup-self"}, header)
	if err != nil || !a.saysInvalid() {
		return
	}
	select {
	case p.ops.dead <- token:
	default:
	}
}

// reasonOf says why a request could not be passed on, without its URL.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case isTrust(err):
		return "its certificate does not convince: " + cause(err)
	}
	return cause(err)
}

// refuse answers as Vault does.
func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {"latchkey-agent: " + text}})
}
