package agent

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Every answer of the kubernetes auth method says who must do what, in one
// line, and is tried again.
func TestLoginErrors(t *testing.T) {
	const who = `logging in to https://vault.test:8200 at auth/kubernetes with role "payments" as ServiceAccount shop/checkout (aud "vault", iss "https://kubernetes.default.svc", exp 2030-03-17T17:46:40Z): `
	for _, c := range []struct {
		status int
		said   string
		act    bool
		want   string // after said and the status
	}{
		{400, `invalid role name "payments"`, true, `create the role "payments" at this mount, or correct the pod's role`},
		{403, "service account name not authorized", true, `add "checkout" to the role's bound_service_account_names`},
		{403, "namespace not authorized", true, `add "shop" to the role's bound_service_account_namespaces`},
		{403, "namespace not authorized err=failed to get namespace (code 403 status Forbidden)", true, "the mount's reviewer must be allowed to read namespaces"},
		{403, "invalid audience (aud) claim: audience claim does not match any expected audience", true, "the role's audience and the connection's audience must be the same"},
		{403, "invalid issuer (iss) claim", true, "correct the mount's issuer, or set its disable_iss_validation"},
		{403, "invalid expiration time (exp) claim: token is expired", false, "the kubelet writes a new one; check the clocks"},
		{403, "invalid not before (nbf) claim: token not yet valid", false, "check the clocks of Vault and the cluster"},
		{403, "permission denied", false, "Vault says this also when it cannot ask the API server"},
		{404, `no handler for route "auth/kubernetes/login". route entry not found.`, true, "enable the kubernetes auth method at this mount"},
		{500, "could not load backend configuration", false, "the mount has no configuration yet: write config below it"},
		{500, "failed to get service account (code 403 status Forbidden)", true, "the mount's reviewer must be allowed to read ServiceAccounts"},
		{503, "Vault is sealed", false, "unseal it"},
		{429, `request path "auth/kubernetes/login": rate limit quota exceeded`, false, ""},
		{500, "internal error", false, ""},
	} {
		t.Run(c.said, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.vault.fault = func(w http.ResponseWriter, _ *http.Request) bool { fail(w, c.status, c.said); return true }
				a := p.start()
				after(time.Second)
				_, reason := p.ready()
				want := fmt.Sprintf("%s%s (%d)", who, c.said, c.status)
				if !strings.HasPrefix(reason, want) || !strings.Contains(reason[len(want):], c.want) || strings.Contains(reason, "\n") {
					t.Errorf("got %s\nwant %s: %s", reason, want, c.want)
				}
				if acts := strings.Contains(p.logs.String(), `"someoneMustAct":true`); acts != c.act {
					t.Errorf("someone must act: %v, want %v", acts, c.act)
				}
				p.vault.set(func() { p.vault.fault = nil })
				after(11 * time.Second)
				p.wantReady()
				a.terminate()
			})
		})
	}
}

// What a server quotes of the JWT does not come back in the message, and what
// is no answer of Vault is not quoted at all.
func TestLoginErrorQuotesNothingSecret(t *testing.T) {
	for name, body := range map[string]string{"JSON": `{"errors":["bad jwt ` + fixtureJWT() + `"]}`, "no JSON": "you sent " + fixtureJWT()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.vault.fault = says(400, nil, body)
				c := p.start()
				after(time.Second)
				if _, reason := p.ready(); strings.Contains(reason, fixtureJWT()) || !strings.Contains(reason, "400") {
					t.Errorf("got %s", reason)
				}
				c.terminate()
			})
		})
	}
}

// The file of the ServiceAccount token is read afresh for each login, and may
// be missing or empty at first.
func TestTokenFile(t *testing.T) {
	for name, content := range map[string]*string{"missing": nil, "empty": new(string), "no JWT": func() *string { s := "abc"; return &s }()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				token := p.vault.jwt
				os.Remove(token)
				if content != nil {
					if err := os.WriteFile(token, []byte(*content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if name == "no JWT" {
					p.vault.fault = says(403, nil, `{"errors":["permission denied"]}`)
				}
				c := p.start()
				after(time.Second)
				if ok, reason := p.ready(); ok || !strings.Contains(reason, "token") {
					t.Errorf("ready %v, %q", ok, reason)
				} else {
					t.Log(reason)
				}
				p.vault.set(func() { p.vault.fault = nil })
				if err := os.WriteFile(token, []byte(fixtureJWT()), 0o600); err != nil {
					t.Fatal(err)
				}
				after(11 * time.Second)
				p.wantReady()
				c.terminate()
			})
		})
	}
}

// The mount may be written with and without "auth/".
func TestMountSpellings(t *testing.T) {
	for _, mount := range []string{"kubernetes", "auth/kubernetes", "auth/kubernetes/", "/kubernetes/"} {
		t.Run(mount, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.conf.Vault.Auth.Mount = mount
				c := p.start()
				after(0)
				p.wantCalls(callLogin, callMount, callRead)
				c.terminate()
			})
		})
	}
}

// The login's namespace and the secrets' are two settings; tokens are renewed
// and revoked in the login's.
func TestNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Vault.Namespace, p.conf.Vault.Auth.Namespace = "team/", "admin"
		seen := make(map[string]string)
		p.vault.fault = func(_ http.ResponseWriter, r *http.Request) bool {
			p.vault.set(func() { seen[strings.TrimPrefix(r.URL.Path, "/v1/")] = r.Header.Get("X-Vault-Namespace") })
			return false
		}
		c := p.start()
		after(11 * time.Minute)
		c.terminate()
		for path, want := range map[string]string{"auth/kubernetes/login": "admin", "auth/token/renew-self": "admin", "auth/token/revoke-self": "admin",
			"kv/data/app": "team/", "sys/internal/ui/mounts/kv/app": "team/"} {
			if seen[path] != want {
				t.Errorf("%s in namespace %q, want %q", path, seen[path], want)
			}
		}
	})
}
