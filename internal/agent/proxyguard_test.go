package agent

import (
	"net/http"
	"net/url"
	gopath "path"
	"strings"
	"testing"
)

// FuzzProxyPath asks for any path with the agent's token: what gets to Vault
// never ends that token and never makes another, however Vault may read it.
func FuzzProxyPath(f *testing.F) {
	for _, path := range []string{"/v1/kv/data/app", "/v1/auth/token/revoke-self", "/v1/auth/token/../token/revoke-self", "/v1//auth/token/create", "/v1/auth/token/%2e%2e/token/revoke",
		"/v1/auth%2ftoken%2Frevoke-self", "/v1/ns/auth/token/create-orphan", "/v1/AUTH/token/revoke-self", "/v1/auth/token/revoke-self/", "/v1/auth/token/revoke-self%00", "/v1/auth/token/%252e%252e/create",
		"/v1/a;b/auth/token/create", "/v1/auth/token/create?x=/../", "/v1/./auth/token/create", "/v1/auth\\token\\create", "/v1/auth/token/create/auth/token/a", "/v1/auth/token/auth/token/revoke"} {
		f.Add("PUT", path)
		f.Add("GET", path)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.NewRequest(method, "http://127.0.0.1:8200"+target, nil)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		path, refused := cleanPath(r.URL.Path)
		if refused == nil {
			refused = guard(method, "", path, false)
		}
		if refused != nil {
			if refused.text == "" || refused.status < 400 {
				t.Fatalf("%s %q is refused with %+v", method, target, refused)
			}
			return
		}
		// What Vault reads from the URL that is sent is what was judged.
		sent, err := http.NewRequest(method, (&url.URL{Scheme: "http", Host: "vault.test", Path: "/v1/" + path}).String(), nil)
		if err != nil || sent.URL.Path != "/v1/"+path {
			t.Fatalf("%q is judged as %q and sent as %v: %v", target, path, sent, err)
		}
		if method == "GET" || method == "HEAD" || method == "LIST" {
			return
		}
		read := strings.ToLower(strings.Trim(gopath.Clean(sent.URL.Path), "/"))
		for _, op := range []string{"auth/token/revoke", "auth/token/create"} {
			if strings.Contains("/"+read, "/"+op) {
				t.Fatalf("%s %q gets to Vault as %q", method, target, read)
			}
		}
	})
}
