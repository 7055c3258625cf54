package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// proxyPod is a pod whose app asks Vault through its agent. Vault answers paths
// below db/creds/ and echo/ as well.
func proxyPod(t *testing.T) *pod {
	t.Helper()
	p := newPod(t, env("db.env", "kv/app"))
	p.conf.Files = nil
	p.conf.Local = &config.Local{Listen: "127.0.0.1:8200", Proxy: &config.Proxy{RequireHeader: true}}
	if err := p.conf.Validate(); err != nil {
		t.Fatal(err)
	}
	p.listen = func(string) (net.Listener, error) { return deaf{make(chan struct{})}, nil }
	leases := 0
	p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		token := r.Header.Get("X-Vault-Token")
		switch {
		case strings.HasPrefix(path, "db/creds/"):
			p.vault.set(func() { leases++ })
			reply(w, map[string]any{"lease_id": fmt.Sprintf("%s/%d", path, leases), "lease_duration": 600, "renewable": true, "data": map[string]any{"username": fmt.Sprint("user-", leases)}})
		case strings.HasPrefix(path, "echo/"):
			reply(w, map[string]any{"data": map[string]any{
				"method": r.Method, "path": r.URL.EscapedPath(), "query": r.URL.RawQuery, "namespace": r.Header.Get("X-Vault-Namespace"),
				"ours": strings.HasPrefix(token, tokenPrefix), "header": r.Header,
			}})
		case path == "auth/token/lookup-self" && strings.HasPrefix(token, tokenPrefix) && p.vault.isGood(token):
			reply(w, map[string]any{"data": map[string]any{"id": token, "accessor": "accessor-1", "ttl": 3600}})
		case token == "the-apps-own":
			reply(w, map[string]any{"data": map[string]any{"id": token}})
		default:
			return false
		}
		return true
	}
	return p
}

// deaf is a listener that nobody calls.
type deaf struct{ closed chan struct{} }

func (d deaf) Accept() (net.Conn, error) { <-d.closed; return nil, net.ErrClosed }
func (d deaf) Close() error              { close(d.closed); return nil }
func (d deaf) Addr() net.Addr            { return &net.TCPAddr{} }

func (f *fakeVault) isGood(token string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tokens[token]
	return t != nil && !t.revoked && time.Now().Before(t.expires)
}

// ofApp is a request of the app's.
func ofApp(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "127.0.0.1:8200"
	r.Header.Set("X-Vault-Request", "true")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		if r.Header.Del(name); name == "Host" {
			r.Host = value
		} else if value != "" {
			r.Header.Set(name, value)
		}
	}
	return r
}

func ask(h http.Handler, r *http.Request) (status int, body map[string]any) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	_ = json.Unmarshal(w.Body.Bytes(), &body)
	return w.Code, body
}

func TestProxyPassesRequestsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		p.conf.Vault.Namespace = "team"
		p.conf.Vault.Headers = map[string]string{"X-Cluster": "blue"}
		c := p.start()
		after(0)
		p.wantReady() // with nothing to publish
		h := c.agent.localHandler()
		p.vault.taken()

		status, body := ask(h, ofApp("POST", "/v1/echo/a%20b%2Fc?x=1&y=%2F", `{"a":1}`, "Connection: X-Hop", "X-Hop: 1", "X-Forwarded-For: 10.9.8.7", "X-Correlation-Id: 7", "Cookie: a=b"))
		data, _ := body["data"].(map[string]any)
		header, _ := data["header"].(map[string]any)
		if status != 200 || data["ours"] != true || data["method"] != "POST" || data["path"] != "/v1/echo/a%20b/c" || data["query"] != "x=1&y=%2F" || data["namespace"] != "team" {
			t.Errorf("got %d %v", status, body)
		}
		for _, name := range []string{"Connection", "X-Hop", "X-Forwarded-For", "Cookie"} {
			if header[name] != nil {
				t.Errorf("%s is passed on", name)
			}
		}
		if header["X-Correlation-Id"] == nil || header["X-Cluster"] == nil {
			t.Errorf("headers are lost: %v", header)
		}
		if _, body := ask(h, ofApp("GET", "/v1/echo/a", "", "X-Vault-Namespace: other")); body["data"].(map[string]any)["namespace"] != "other" {
			t.Errorf("the app's namespace is not passed on: %v", body)
		}
		// The app's own token wins, in either header.
		for _, own := range []string{"X-Vault-Token: the-apps-own", "Authorization: Bearer the-apps-own"} {
			if status, body := ask(h, ofApp("GET", "/v1/echo/a", "", own)); status != 200 || body["data"].(map[string]any)["ours"] != false {
				t.Errorf("%s: %d %v", own, status, body)
			}
		}
		if _, body := ask(h, ofApp("GET", "/v1/echo/a", "", "Authorization: Basic YTpi")); body["data"].(map[string]any)["ours"] != true {
			t.Errorf("with credentials that are not Vault's: %v", body)
		}
		if status, body := ask(h, ofApp("LIST", "/v1/echo/", "")); status != 200 || body["data"].(map[string]any)["method"] != "LIST" {
			t.Errorf("LIST: %d %v", status, body)
		}
		// What the app is not to be told.
		for _, call := range []string{"GET /v1/auth/token/lookup-self", "PUT /v1/auth/token/renew-self"} {
			method, path, _ := strings.Cut(call, " ")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, ofApp(method, path, ""))
			if w.Code != 200 || strings.Contains(w.Body.String(), tokenPrefix) || !strings.Contains(w.Body.String(), "accessor-1") || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %d %s", call, w.Code, w.Body)
			}
		}
		wantMetrics(t, c.agent, map[string]string{`latchkey_agent_proxy_requests_total{result="passed"}`: "8"})
		c.terminate()
		if p.vault.good() != 1 {
			t.Error("a token that apps were using is revoked")
		}
	})
}

func TestProxyRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		c := p.start()
		after(0)
		h := c.agent.localHandler()
		p.vault.taken()
		for name, refused := range map[string]struct {
			r      *http.Request
			status int
			says   string
		}{
			"no header":            {ofApp("GET", "/v1/kv/data/app", "", "X-Vault-Request"), 403, "X-Vault-Request is missing"},
			"another host":         {ofApp("GET", "/v1/kv/data/app", "", "Host: evil.example:8200"), 403, "another host"},
			"a page's":             {ofApp("POST", "/v1/echo/a", "{}", "Origin: http://127.0.0.1:8200"), 403, "a web page's"},
			"a page's, to read":    {ofApp("GET", "/v1/kv/data/app", "", "Sec-Fetch-Site: cross-site"), 403, "a web page's"},
			"a page's, to end it":  {ofApp("POST", "/quit", "", "Origin: null"), 403, "a web page's"},
			"revoke":               {ofApp("PUT", "/v1/auth/token/revoke-self", ""), 403, "not revoked"},
			"revoke by POST":       {ofApp("POST", "/v1/auth/token/revoke-self/", ""), 403, "not revoked"},
			"revoke an accessor":   {ofApp("POST", "/v1/auth/token/revoke-accessor", `{"accessor":"accessor-1"}`), 403, "not revoked"},
			"revoke in namespace":  {ofApp("POST", "/v1/team/auth/token/revoke-self", ""), 403, "not revoked"},
			"revoke in other case": {ofApp("POST", "/v1/Auth/Token/Revoke-Self", ""), 403, "not revoked"},
			"revoke encoded":       {ofApp("POST", "/v1/auth/token/%72evoke%2Dself", ""), 403, "not revoked"},
			"revoke past a slash":  {ofApp("POST", "/v1/auth/token%2Frevoke-self", ""), 403, "not revoked"},
			"revoke by namespace":  {ofApp("POST", "/v1/token/revoke-self", "", "X-Vault-Namespace: team/auth/"), 403, "not revoked"},
			"create by namespace":  {ofApp("POST", "/v1/create", "{}", "X-Vault-Namespace: auth/token"), 403, "no token is made"},
			"create, twice":        {ofApp("POST", "/v1/auth/token/create/auth/token/lookup", "{}"), 403, "no token is made"},
			"dots":                 {ofApp("POST", "/v1/auth/token/../token/revoke-self", ""), 400, "the path holds"},
			"encoded dots":         {ofApp("POST", "/v1/auth/x/%2e%2e/token/revoke-self", ""), 400, "the path holds"},
			"two slashes":          {ofApp("POST", "/v1/auth//token/revoke-self", ""), 400, "the path holds"},
			"slash in front":       {ofApp("POST", "/v1//auth/token/revoke-self", ""), 400, "the path holds"},
			"backslash":            {ofApp("POST", "/v1/auth%5Ctoken/revoke-self", ""), 400, "the path holds"},
			"create":               {ofApp("POST", "/v1/auth/token/create", "{}"), 403, "no token is made"},
			"create for a role":    {ofApp("PUT", "/v1/auth/token/create/admin", "{}"), 403, "no token is made"},
			"create an orphan":     {ofApp("PUT", "/v1/auth/token/create-orphan", "{}"), 403, "no token is made"},
			"wrapped lookup":       {ofApp("GET", "/v1/auth/token/lookup-self", "", "X-Vault-Wrap-TTL: 60"), 403, "not wrapped"},
			"no API":               {ofApp("GET", "/ui/", ""), 404, "nothing at this path"},
			"too long":             {ofApp("POST", "/v1/echo/a", strings.Repeat("a", maxAsked+1)), 413, "longer than 4 MiB"},
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, refused.r)
			var body struct{ Errors []string }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != refused.status || len(body.Errors) != 1 || !strings.Contains(body.Errors[0], refused.says) {
				t.Errorf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		p.wantCalls()
		// With its own token the app may do what Vault lets it.
		if status, _ := ask(h, ofApp("POST", "/v1/auth/token/create", "{}", "X-Vault-Token: the-apps-own")); status != 200 {
			t.Errorf("with the app's own token: %d", status)
		}
		// One that sends the agent's is taken for one that sends none.
		own := c.agent.ops.view.Load().token.Reveal()
		for _, header := range []string{"X-Vault-Token: " + own, "Authorization: Bearer " + own} {
			if status, _ := ask(h, ofApp("POST", "/v1/auth/token/revoke-self", "", header)); status != 403 {
				t.Errorf("the agent's token is revoked by whoever knows it: %d", status)
			}
		}
		c.terminate()
	})
}

// piped is a listener whose connections are made in memory, without any buffer.
type piped chan net.Conn

func (p piped) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p piped) Close() error   { close(p); return nil }
func (p piped) Addr() net.Addr { return &net.TCPAddr{} }

// Apps that ask and do not read the answer do not keep the others from asking.
func TestProxyOutlastsAppsThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		listener := make(piped)
		p.listen = func(string) (net.Listener, error) { return listener, nil }
		c := p.start()
		after(0)
		send := func() net.Conn {
			app, agent := net.Pipe()
			_ = app.SetDeadline(time.Now().Add(2 * answerTimeout))
			listener <- agent
			r := ofApp("POST", "/v1/echo/a", strings.Repeat("a", 10<<10), "X-Filler: "+strings.Repeat("a", 10<<10)) // which is in the answer
			if err := r.Write(app); err != nil {
				t.Error(err)
			}
			return app
		}
		for range proxied {
			defer send().Close()
		}
		after(answerTimeout)
		asked := send()
		defer asked.Close()
		answers := bufio.NewReader(asked)
		for i, status := range []int{200, 403} {
			if i > 0 {
				// A connection is good for another request long after the first one.
				after(answerTimeout + time.Second)
				if err := ofApp("GET", "/v1/echo/a", "", "X-Vault-Request").Write(asked); err != nil {
					t.Fatal(err)
				}
			}
			answer, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("while others do not read: %v", err)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != status {
				t.Fatalf("%s, %v", answer.Status, err)
			}
		}
		c.terminate()
	})
}

func TestProxyWithoutVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		p.vault.cut = true
		c := p.start()
		after(time.Second)
		h := c.agent.localHandler()
		if status, body := ask(h, ofApp("GET", "/v1/echo/a", "")); status != 503 || !strings.Contains(fmt.Sprint(body["errors"]), "no Vault token") {
			t.Errorf("before the login: %d %v", status, body)
		}
		p.vault.set(func() { p.vault.cut = false })
		after(time.Minute)
		fault := p.vault.fault
		p.vault.set(func() { p.vault.fault = says(307, http.Header{"Location": {"https://active.test/v1/echo/a"}}, "") })
		if status, body := ask(h, ofApp("GET", "/v1/echo/a", "")); status != 503 || !strings.Contains(fmt.Sprint(body["errors"]), "307") {
			t.Errorf("a standby: %d %v", status, body)
		}
		p.vault.set(func() { p.vault.fault = says(503, nil, `{"errors":["Vault is sealed"]}`) })
		if status, body := ask(h, ofApp("GET", "/v1/echo/a", "")); status != 503 || fmt.Sprint(body["errors"]) != "[Vault is sealed]" {
			t.Errorf("a sealed Vault: %d %v", status, body)
		}
		p.vault.set(func() { p.vault.fault, p.vault.cut = fault, true })
		if status, body := ask(h, ofApp("GET", "/v1/echo/a", "")); status != 503 || !strings.Contains(fmt.Sprint(body["errors"]), "connection refused") {
			t.Errorf("no network: %d %v", status, body)
		}
		c.terminate()
	})
}

// A token that was revoked behind the agent's back is noticed by the first app
// that asks.
func TestProxyNoticesADeadToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		c := p.start()
		after(0)
		h := c.agent.localHandler()
		// The words alone are nothing: they may be about another token.
		fault := p.vault.fault
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/auth/jwt/login" && says(403, nil, `{"errors":["invalid token: of somebody else"]}`)(w, r) || fault(w, r)
			}
		})
		ask(h, ofApp("POST", "/v1/auth/jwt/login", "{}"))
		after(time.Minute)
		if p.vault.minted != 1 {
			t.Fatal("logged in for another's token")
		}
		p.vault.set(func() {
			for _, token := range p.vault.tokens {
				token.revoked = true
			}
		})
		if status, _ := ask(h, ofApp("GET", "/v1/kv/data/app", "")); status != 403 {
			t.Errorf("with a dead token: %d", status)
		}
		after(time.Minute)
		if status, body := ask(h, ofApp("GET", "/v1/kv/data/app", "")); status != 200 {
			t.Errorf("a minute later: %d %v", status, body)
		}
		c.terminate()
	})
}
