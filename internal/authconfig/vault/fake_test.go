package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// fake is as much of Vault as a login needs. It quotes what it was sent in each
// refusal, as some proxies do.
type fake struct {
	t   *testing.T
	log bytes.Buffer // of the client

	mu       sync.Mutex
	calls    []string // "method path", in order
	requests []*http.Request
	tokens   map[string]bool // that are good
	made     int
	// What a login answers.
	ttl      int
	policies []string
	batch    bool
	down     bool // 503 for logins
	deny     func(path string) bool
	// answer, if it is set, answers what is no login.
	answer http.HandlerFunc
	lookup map[string]any
}

const jwtMark = "c2lnbmF0dXJl-of-the-test"

func fixtureJWT() string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":["vault"],"iss":"https://i","exp":0,"kubernetes.io":{"namespace":"latchkey","serviceaccount":{"name":"latchkey-authconfig"}}}`)) + "." + jwtMark
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	f.serve(w, r)
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.calls = append(f.calls, r.Method+" "+path)
	f.requests = append(f.requests, r)
	var sent []byte
	if r.Body != nil {
		sent, _ = io.ReadAll(r.Body)
	}
	token := r.Header.Get("X-Vault-Token")
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		var values map[string]string
		_ = json.Unmarshal(sent, &values)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text + fmt.Sprint(" ", values, token)}})
	}
	switch {
	case strings.HasSuffix(path, "/login"):
		if token != "" {
			f.t.Error("a login carries a token")
		}
		if f.down {
			refuse(503, "Vault is sealed")
			return
		}
		if bytes.Contains(sent, []byte("wrong")) {
			refuse(400, "invalid role or secret ID")
			return
		}
		f.made++
		fresh := fmt.Sprintf("hvs.token-%d-of-the-test", f.made)
		f.tokens[fresh] = true
		auth := map[string]any{"client_token": fresh, "accessor": "a", "lease_duration": f.ttl, "policies": f.policies}
		if f.batch {
			auth["accessor"] = ""
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": auth})
	case path == "sys/health":
		_, _ = io.WriteString(w, `{"initialized":true,"sealed":false,"version":"1.21.0","cluster_id":"c"}`)
	case !f.tokens[token]:
		refuse(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
	case f.deny != nil && f.deny(path):
		refuse(403, "1 error occurred:\n\t* permission denied\n\n")
	case path == "auth/token/revoke-self":
		delete(f.tokens, token)
		w.WriteHeader(204)
	case path == "auth/token/lookup-self":
		_ = json.NewEncoder(w).Encode(map[string]any{"data": f.lookup})
	case path == "auth/token/renew-self":
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": f.ttl, "renewable": true}})
	case f.answer != nil:
		f.answer(w, r)
	default:
		_, _ = io.WriteString(w, `{"data":{"number":12345678901234567890}}`)
	}
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// count is how many calls there were of one kind so far.
func (f *fake) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fake) want(n int, call string) {
	f.t.Helper()
	if got := f.count(call); got != n {
		f.t.Errorf("%s: %d times, want %d; all: %q", call, got, n, f.calls)
	}
}

// start makes a fake and a client of it, which logs in with method jwt unless
// changed. No log of the test's holds a secret.
func start(t *testing.T, change func(*config.Vault)) (*fake, *Client) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"jwt": fixtureJWT(), "role-id": "role-of-the-test", "secret-id": "secret-of-the-test", "token": "hvs.file-of-the-test"} {
		put(t, filepath.Join(dir, name), content+"\n")
	}
	f := &fake{t: t, tokens: map[string]bool{"hvs.file-of-the-test": true}, ttl: 3600, policies: []string{"default", "latchkey-authconfig"},
		lookup: map[string]any{"policies": []string{"latchkey-authconfig"}, "ttl": 3600, "renewable": true, "type": "service"}}
	v := config.Vault{Address: "https://vault.example:8200"}
	v.Auth = config.Auth{Method: "jwt", Mount: "jwt", Role: "latchkey-authconfig", TokenPath: filepath.Join(dir, "jwt")}
	if change != nil {
		change(&v)
	}
	for _, path := range []*string{&v.Auth.TokenPath, &v.Auth.RoleIDPath, &v.Auth.SecretIDPath} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	c, err := newClient(v, "auth/kubernetes/", "kubernetes", slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug})), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.clean(f.log.String()) })
	return f, c
}

// clean reports secrets in what a person may read.
func (f *fake) clean(text string) {
	f.t.Helper()
	for _, secret := range []string{"-of-the-test"} {
		if strings.Contains(text, secret) {
			f.t.Errorf("a secret is in %s", text)
		}
	}
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read reads a path that is there.
func read(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.read(t.Context(), "sys/auth"); err != nil {
		t.Fatal(err)
	}
}

// wantError checks a message for all it should say, and for secrets.
func (f *fake) wantError(err error, want ...string) {
	f.t.Helper()
	if err == nil {
		f.t.Errorf("no error, want %q", want)
		return
	}
	f.clean(fmt.Sprintf("%v %+v", err, err))
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			f.t.Errorf("got %v\nwant %s", err, w)
		}
	}
}

func approle(v *config.Vault) {
	v.Auth = config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id"}
}

func tokenFile(v *config.Vault) { v.Auth = config.Auth{Method: "token", TokenPath: "token"} }

func kubernetes(v *config.Vault) {
	v.Auth = config.Auth{Method: "kubernetes", Mount: "login", Role: "r", TokenPath: "jwt"}
}
