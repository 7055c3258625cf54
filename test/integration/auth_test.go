package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const (
	lookupCall   = "read auth/token/lookup-self"
	renewCall    = "update auth/token/renew-self"
	revokeCall   = "update auth/token/revoke-self"
	wrappingPath = "auth/approle/role/app/secret-id"
)

// loginVault is a Vault with every auth method, and with one secret.
func loginVault(t *testing.T) *vaulttest.Vault {
	t.Helper()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	v.Role("app", vaulttest.Read("kv/data/app"), map[string]any{"token_ttl": "6s"})
	v.KV("app", map[string]any{"password": "first-password"})
	for _, method := range []string{"approle", "cert"} {
		if err := v.Root.Sys().EnableAuthWithOptionsWithContext(t.Context(), method, &api.EnableAuthOptions{Type: method}); err != nil {
			t.Fatal(err)
		}
	}
	v.Write("auth/approle/role/app", map[string]any{"token_policies": []string{"app"}, "token_ttl": "6s"})
	v.Write("auth/cert/certs/app", map[string]any{"certificate": v.Authority.PEM(), "token_policies": []string{"app"}, "token_ttl": "6s"})
	return v
}

// loginAgent is an agent of role app that logs in otherwise. What it shows is in
// files, whose names and contents take turns; they are secret.
func loginAgent(t *testing.T, v *vaulttest.Vault, auth config.Auth, files ...string) *vaulttest.Agent {
	t.Helper()
	a := v.Agent("app", raw("password", "kv/app", "password"))
	dir := filepath.Dir(a.Token)
	for i := 0; i < len(files); i += 2 {
		put(t, filepath.Join(dir, files[i]), files[i+1])
		v.Secret(strings.TrimSpace(files[i+1]))
	}
	for _, path := range []*string{&auth.TokenPath, &auth.RoleIDPath, &auth.SecretIDPath} {
		if *path != "" {
			*path = filepath.Join(dir, *path)
		}
	}
	if auth.Method == "cert" {
		a.Config.Vault.ClientCert, a.Config.Vault.ClientKey = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	}
	a.Config.Vault.Auth = auth
	return a
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// roleID and secretID are what method approle shows.
func roleID(v *vaulttest.Vault, role string) string {
	id, _ := v.Get("auth/approle/role/" + role + "/role-id")["role_id"].(string)
	return v.Secret(id)
}

func secretID(v *vaulttest.Vault, role string) string {
	id, _ := v.Write("auth/approle/role/"+role+"/secret-id", nil)["secret_id"].(string)
	return v.Secret(id)
}

// wrap asks for an answer of Vault's to be wrapped.
func wrap(t *testing.T, v *vaulttest.Vault, path string, data map[string]any) string {
	t.Helper()
	c := v.Client(v.Root.Token())
	c.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	answer, err := c.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil || answer == nil || answer.WrapInfo == nil {
		t.Fatalf("wrapping %s: %v", path, err)
	}
	return v.Secret(answer.WrapInfo.Token)
}

// token makes a Vault token of policy app.
func token(t *testing.T, v *vaulttest.Vault, settings *api.TokenCreateRequest) string {
	t.Helper()
	if settings.Policies == nil {
		settings.Policies = []string{"app"}
	}
	answer, err := v.Root.Auth().Token().CreateWithContext(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	return v.Secret(answer.Auth.ClientToken)
}

// good is nil while Vault accepts a token.
func good(t *testing.T, v *vaulttest.Vault, token string) error {
	_, err := v.Root.Auth().Token().LookupWithContext(t.Context(), token)
	return err
}

// Each method brings a token that is renewed and, unless somebody else keeps it,
// revoked at the end.
func TestAuthMethods(t *testing.T) {
	t.Parallel()
	v := loginVault(t)
	v.Write("auth/approle/role/unbound", map[string]any{"token_policies": []string{"app"}, "token_ttl": "6s", "bind_secret_id": false, "token_bound_cidrs": "127.0.0.0/8"})
	cert, key := v.Authority.Issue(t, "checkout")
	var others string
	for _, c := range []struct {
		name  string
		auth  config.Auth
		files []string
		login string
	}{
		{"kubernetes", config.Auth{Method: "kubernetes", Mount: "kubernetes", Role: "app", TokenPath: "token"}, nil, "update auth/kubernetes/login"},
		{"jwt", config.Auth{Method: "jwt", Mount: "auth/jwt", Role: "app", TokenPath: "token"}, nil, "update auth/jwt/login"},
		{"approle", config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id"},
			[]string{"role-id", roleID(v, "app") + "\n", "secret-id", secretID(v, "app") + "\n"}, "update auth/approle/login"},
		{"approle without secret ID", config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id"},
			[]string{"role-id", roleID(v, "unbound")}, "update auth/approle/login"},
		{"approle wrapped", config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id", SecretIDWrappingPath: wrappingPath},
			[]string{"role-id", roleID(v, "app"), "secret-id", wrap(t, v, wrappingPath, nil)}, "update auth/approle/login"},
		{"cert", config.Auth{Method: "cert", Mount: "cert"}, []string{"tls.crt", cert, "tls.key", key}, "update auth/cert/login"},
		{"cert of one role", config.Auth{Method: "cert", Mount: "cert", Role: "app"}, []string{"tls.crt", cert, "tls.key", key}, "update auth/cert/login"},
		{"token", config.Auth{Method: "token", TokenPath: "vault-token"}, nil, lookupCall},
	} {
		if c.name == "token" {
			others = token(t, v, &api.TokenCreateRequest{Period: "6s"})
			c.files = []string{"vault-token", others}
		}
		a := loginAgent(t, v, c.auth, c.files...)
		logins, renewals, ends := v.Count(c.login), v.Count(renewCall), v.Count(revokeCall)
		a.Start()
		a.WaitFile("password", "first-password")
		vaulttest.Wait(t, c.name+": two renewals", func() error { return atLeast(v, renewals+2, renewCall) })
		// A busy machine may be late for a renewal, and log in once more.
		if err := atLeast(v, logins+1, c.login); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		logins = v.Count(c.login)
		if code := a.Terminate(); code != 0 {
			t.Errorf("%s: ended with %d", c.name, code)
		}
		if revoked := v.Count(revokeCall) > ends; revoked != (c.name != "token") {
			t.Errorf("%s: revoked: %v", c.name, revoked)
		}
		if c.name == "approle wrapped" {
			// The wrapping token is used up; the container that is started again goes on.
			a.Start()
			vaulttest.Wait(t, c.name+": another login", func() error { return atLeast(v, logins+1, c.login) })
			a.WaitReady()
			a.Terminate()
			wantCount(t, v, 1, "update sys/wrapping/unwrap")
		}
	}
	if err := good(t, v, others); err != nil {
		t.Errorf("the token of somebody else was revoked: %v", err)
	}
}

// Each refusal says what is wrong, whose login it was, and what helps.
func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	v := loginVault(t)
	stranger := vaulttest.NewAuthority(t)
	strangeCert, strangeKey := stranger.Issue(t, "mallory")
	cert, key := v.Authority.Issue(t, "checkout")
	used := wrap(t, v, wrappingPath, nil)
	if _, err := v.Client(used).Logical().UnwrapWithContext(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	again := wrap(t, v, "sys/wrapping/wrap", map[string]any{"secret_id": secretID(v, "app")})
	ended := token(t, v, &api.TokenCreateRequest{})
	if err := v.Root.Auth().Token().RevokeOrphanWithContext(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	kubernetes := config.Auth{Method: "kubernetes", Mount: "kubernetes", Role: "app", TokenPath: "jwt"}
	jwt := config.Auth{Method: "jwt", Mount: "jwt", Role: "app", TokenPath: "jwt"}
	approle := config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id"}
	wrapped := approle
	wrapped.SecretIDWrappingPath = wrappingPath
	of := func(a config.Auth, role string) config.Auth { a.Role = role; return a }
	sa := func(name string, life time.Duration, audiences ...string) []string {
		return []string{"jwt", v.Kubernetes.Token(name, life, audiences...)}
	}
	agents := make(map[string]*vaulttest.Agent)
	cases := map[string]struct {
		auth  config.Auth
		files []string
		want  []string
	}{
		"kubernetes, role":           {of(kubernetes, "nope"), sa("app", time.Hour), []string{`auth/kubernetes with role "nope" as ServiceAccount `, `invalid role name "nope" (400): create the role "nope"`}},
		"kubernetes, audience":       {kubernetes, sa("app", time.Hour, "other"), []string{`(aud "other"`, "(403): the role's audience and the connection's audience must be the same"}},
		"kubernetes, expired":        {kubernetes, sa("app", -time.Hour), []string{"token is expired (403): the kubelet writes a new one"}},
		"kubernetes, ServiceAccount": {kubernetes, sa("other", time.Hour), []string{`service account name not authorized (403): add "other" to the role's bound_service_account_names`}},
		"jwt, role":                  {of(jwt, "nope"), sa("app", time.Hour), []string{`role "nope" could not be found (400): create the role "nope"`}},
		"jwt, audience":              {jwt, sa("app", time.Hour, "other"), []string{"(400): the role's bound_audiences must have the connection's audience"}},
		"jwt, expired":               {jwt, sa("app", -time.Hour), []string{"token is expired (400): the kubelet writes a new one"}},
		"jwt, ServiceAccount":        {jwt, sa("other", time.Hour), []string{"(400): the role's bound_subject must be that of ServiceAccount "}},
		"jwt, no such mount":         {config.Auth{Method: "jwt", Mount: "nowhere", Role: "app", TokenPath: "jwt"}, sa("app", time.Hour), []string{"permission denied (403): check that the mount exists and is of type jwt"}},
		"approle, secret ID":         {approle, []string{"role-id", roleID(v, "app"), "secret-id", "wrong-secret-id-of-the-test"}, []string{"with the role ID in ", "invalid role or secret ID (400): a secret ID may have expired, been used up or been destroyed"}},
		"approle, role ID":           {approle, []string{"role-id", "wrong-role-id-of-the-test", "secret-id", secretID(v, "app")}, []string{"invalid role or secret ID (400)"}},
		"approle, used":              {wrapped, []string{"role-id", roleID(v, "app"), "secret-id", used}, []string{"(400): it is no wrapping token, has run out, or has been used: unless that was here, treat the secret ID as stolen"}},
		"approle, wrapped again":     {wrapped, []string{"role-id", roleID(v, "app"), "secret-id", again}, []string{`it was made at "sys/wrapping/wrap" and not at "` + wrappingPath + `"`}},
		"cert, unknown":              {config.Auth{Method: "cert", Mount: "cert"}, []string{"tls.crt", strangeCert, "tls.key", strangeKey}, []string{`with the client certificate of "CN=mallory"`, "(400): a certificate role of this mount must trust the CA of the client certificate"}},
		"cert, role":                 {config.Auth{Method: "cert", Mount: "cert", Role: "nope"}, []string{"tls.crt", cert, "tls.key", key}, []string{`with role "nope" with the client certificate of "CN=checkout"`, "(400): a certificate role"}},
		"token, root":                {config.Auth{Method: "token", TokenPath: "vault-token"}, []string{"vault-token", v.Root.Token()}, []string{"it is a root token, which no pod may have"}},
		"token, revoked":             {config.Auth{Method: "token", TokenPath: "vault-token"}, []string{"vault-token", ended}, []string{"(403): it has run out, or was revoked (put another one there)"}},
		"token, few uses":            {config.Auth{Method: "token", TokenPath: "vault-token"}, []string{"vault-token", token(t, v, &api.TokenCreateRequest{NumUses: 9})}, []string{"it is good for a few uses more"}},
	}
	for name, c := range cases {
		agents[name] = loginAgent(t, v, c.auth, c.files...)
		agents[name].Start()
	}
	for name, c := range cases {
		vaulttest.Wait(t, name, func() error {
			ready, reason := agents[name].Ready()
			for _, want := range c.want {
				if ready || !strings.Contains(reason, want) {
					return fmt.Errorf("ready: %v, reason: %s\nwant %s", ready, reason, want)
				}
			}
			return nil
		})
	}
	// What helps, helps: here the secret ID that the message asks for.
	put(t, agents["approle, secret ID"].Config.Vault.Auth.SecretIDPath, secretID(v, "app"))
	agents["approle, secret ID"].WaitReady()
}

// accessor is that of the token that an agent has now.
func accessor(t *testing.T, a *vaulttest.Agent) string {
	t.Helper()
	var kept struct{ Accessor string }
	data, err := os.ReadFile(filepath.Join(a.Volume, config.PrivateName, "token.json"))
	if err != nil || json.Unmarshal(data, &kept) != nil {
		return ""
	}
	return kept.Accessor
}

// Each kind of token is kept alive, or replaced in time: no read is ever
// refused.
func TestTokenKinds(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.KV("app", map[string]any{"password": "first-password"})
	type kind struct {
		name     string
		settings map[string]any
		// logins and renewals are the least that there must be before it is enough.
		logins, renewals int
		most             int // logins, 0 is any number
		revoked          bool
	}
	var kinds []kind
	for _, k := range []kind{
		{"batch", map[string]any{"token_type": "batch", "token_ttl": "6s"}, 3, 0, 0, false},
		{"periodic", map[string]any{"token_period": "6s", "token_ttl": nil}, 1, 4, 1, true},
		{"explicit", map[string]any{"token_ttl": "6s", "token_explicit_max_ttl": "15s"}, 2, 2, 0, true},
		{"maximum", map[string]any{"token_ttl": "6s", "token_max_ttl": "15s"}, 2, 2, 0, true},
		{"uses", map[string]any{"token_num_uses": 3}, 3, 0, 0, true},
		{"bare", map[string]any{"token_no_default_policy": true, "token_ttl": "6s"}, 3, 0, 0, false},
	} {
		if k.settings["token_ttl"] == nil {
			delete(k.settings, "token_ttl")
		}
		v.Role(k.name, vaulttest.Read("kv/data/app"), k.settings)
		kinds = append(kinds, k)
	}
	agents := make(map[string]*vaulttest.Agent)
	for _, k := range kinds {
		a := v.Agent(k.name, raw("password", "kv/app", "password"))
		a.Config.Vault.Auth.Method, a.Config.Vault.Auth.Mount = "jwt", "jwt"
		agents[k.name] = a
		a.Start()
	}
	calls := func(role, call string) (n, refused int) {
		for _, e := range v.Audit() {
			if e.Role == role && e.String() == call {
				n++
			}
			if e.Role == role && e.Error != "" && e.String() == "read kv/data/app" {
				refused++
			}
		}
		return n, refused
	}
	for _, k := range kinds {
		a := agents[k.name]
		a.WaitFile("password", "first-password")
		vaulttest.Wait(t, k.name, func() error {
			logins := strings.Count(a.Log(), `"msg":"logged in to Vault"`)
			if k.name == "uses" { // those in the midst of a round are not logged
				logins, _ = calls(k.name, "update auth/jwt/login")
			}
			renewals, _ := calls(k.name, renewCall)
			if logins < k.logins || renewals < k.renewals {
				return fmt.Errorf("%d logins, %d renewals", logins, renewals)
			}
			if k.most > 0 && logins > k.most {
				t.Errorf("%s: %d logins", k.name, logins)
			}
			return nil
		})
		if _, refused := calls(k.name, renewCall); refused > 0 || strings.Contains(a.Log(), "invalid token") {
			t.Errorf("%s: %d reads were refused; the log:\n%s", k.name, refused, a.Log())
		}
		if k.renewals == 0 && k.name != "bare" {
			if n, _ := calls(k.name, renewCall); n > 0 {
				t.Errorf("%s: %d renewals", k.name, n)
			}
		}
		if ok, reason := a.Ready(); !ok {
			t.Errorf("%s: not ready: %s", k.name, reason)
		}
		before, _ := calls(k.name, revokeCall)
		a.Terminate()
		if after, _ := calls(k.name, revokeCall); k.name != "uses" && k.name != "bare" && (after > before) != k.revoked {
			t.Errorf("%s: revoked at the end: %v", k.name, after > before)
		}
	}
}

// A token that somebody revoked, and a role that somebody deleted, are noticed,
// told of, and made up for as soon as that can be.
func TestTokenRevokedAndRoleDeleted(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.KV("app", map[string]any{"password": "first-password"})
	role := func() {
		v.Role("app", vaulttest.Read("kv/data/app"), map[string]any{"token_ttl": "6s"})
	}
	role()
	a := v.Agent("app", raw("password", "kv/app", "password"))
	a.Start()
	a.WaitFile("password", "first-password")
	first := accessor(t, a)
	if err := v.Root.Auth().Token().RevokeAccessorWithContext(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	vaulttest.Wait(t, "another token", func() error {
		if now := accessor(t, a); now == first || now == "" {
			return fmt.Errorf("the accessor is %q", now)
		}
		return nil
	})
	stays := is(a, "password", "first-password")
	before := len(a.Log())
	v.Delete("auth/kubernetes/role/app")
	a.WaitLog(before, "ERROR", `invalid role name \"app\" (400): create the role`)
	if err := stays(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(a.Log()[before:], "does not exist during renewal"); n > 0 {
		t.Errorf("the log says %d times what the login says better", n)
	}
	role()
	v.KV("app", map[string]any{"password": "second-password"})
	a.WaitFile("password", "second-password")
}
