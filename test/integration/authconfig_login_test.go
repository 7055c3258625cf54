package integration

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// kept is the mount that authconfig keeps in these tests.
const kept = "staging/backend"

// visitor is authconfig's client with what it needs.
type visitor struct {
	*vault.Client
	v   *vaulttest.Vault
	typ string
	log *buffer
	dir string
}

// buffer is a log that many write to.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// visitorVault is a Vault with every method that authconfig logs in by, and with
// the published policy for the role authconfig, which has no other policy.
func visitorVault(t *testing.T) *vaulttest.Vault {
	t.Helper()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	visitorRole(v, "authconfig", vault.Policy(kept))
	if err := v.Root.Sys().EnableAuthWithOptionsWithContext(t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		t.Fatal(err)
	}
	v.Write("auth/approle/role/authconfig", map[string]any{"token_policies": []string{"authconfig"}, "token_ttl": "1h"})
	return v
}

// visitorRole makes a role whose tokens have the policy and no other.
func visitorRole(v *vaulttest.Vault, name, policy string) {
	v.Role(name, policy, map[string]any{"token_no_default_policy": true})
}

// visit makes a client that logs in by a method. What it shows is in files, whose
// names and contents take turns; they are secret. Nothing of that is in its log.
func visit(t *testing.T, v *vaulttest.Vault, auth config.Auth, files ...string) *visitor {
	t.Helper()
	return visitMount(t, v, "kubernetes", auth, files...)
}

// visitMount is visit for a mount of a type.
func visitMount(t *testing.T, v *vaulttest.Vault, typ string, auth config.Auth, files ...string) *visitor {
	t.Helper()
	k := &visitor{v: v, typ: typ, log: &buffer{}, dir: t.TempDir()}
	if auth.UsesServiceAccount() {
		files = append(files, "jwt", v.Kubernetes.Token(auth.Role, time.Hour))
		auth.TokenPath = "jwt"
	}
	for i := 0; i < len(files); i += 2 {
		put(t, filepath.Join(k.dir, files[i]), files[i+1]+"\n")
		v.Secret(files[i+1])
	}
	for _, path := range []*string{&auth.TokenPath, &auth.RoleIDPath, &auth.SecretIDPath} {
		if *path != "" {
			*path = filepath.Join(k.dir, *path)
		}
	}
	var err error
	k.Client, err = vault.New(config.Vault{Address: v.Address, CAFile: v.CAFile, Auth: auth}, kept, typ,
		slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.CheckNoLeak("the log", k.log.String()) })
	return k
}

func byJWT(t *testing.T, v *vaulttest.Vault, role string) *visitor {
	t.Helper()
	return visit(t, v, config.Auth{Method: "jwt", Mount: "auth/jwt", Role: role})
}

func (k *visitor) observe(t *testing.T) plan.Observed {
	t.Helper()
	o, err := k.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// wantError checks a message for all it should say, and for secrets.
func (k *visitor) wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	text := fmt.Sprint(err)
	k.v.CheckNoLeak("an error", text)
	for _, w := range want {
		if err == nil || !strings.Contains(text, w) {
			t.Errorf("got %s\nwant %s", text, w)
		}
	}
}

// Each method logs in once, and its token goes at the end unless it is somebody
// else's.
func TestAuthconfigLogin(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	const wrapping = "auth/approle/role/authconfig/secret-id"
	others := token(t, v, &api.TokenCreateRequest{Policies: []string{"authconfig"}, Period: "1h"})
	for _, c := range []struct {
		name  string
		auth  config.Auth
		files []string
		login string
	}{
		{"jwt", config.Auth{Method: "jwt", Mount: "jwt", Role: "authconfig"}, nil, "update auth/jwt/login"},
		{"kubernetes", config.Auth{Method: "kubernetes", Mount: "auth/kubernetes/", Role: "authconfig"}, nil, "update auth/kubernetes/login"},
		{"approle", config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id"},
			[]string{"role-id", roleID(v, "authconfig"), "secret-id", secretID(v, "authconfig")}, "update auth/approle/login"},
		{"approle wrapped", config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id", SecretIDWrappingPath: wrapping},
			[]string{"role-id", roleID(v, "authconfig"), "secret-id", wrap(t, v, wrapping, nil)}, "update auth/approle/login"},
		{"token", config.Auth{Method: "token", TokenPath: "token"}, []string{"token", others}, lookupCall},
	} {
		k := visit(t, v, c.auth, c.files...)
		logins, ends := v.Count(c.login), v.Count(revokeCall)
		for range 3 {
			if o := k.observe(t); o.Cluster == "" || o.Mount != nil {
				t.Errorf("%s: observed %+v", c.name, o)
			}
		}
		wantCount(t, v, logins+1, c.login)
		k.Close(t.Context())
		if tried := v.Count(revokeCall) > ends; tried != (c.name != "token") {
			t.Errorf("%s: revoked: %v", c.name, tried)
		}
		if c.name == "approle wrapped" { // what was in it is good for another login
			k.observe(t)
			wantCount(t, v, logins+2, c.login)
			wantCount(t, v, 1, "update sys/wrapping/unwrap")
		}
	}
	if err := good(t, v, others); err != nil {
		t.Errorf("the token of somebody else was revoked: %v", err)
	}
}

// Refused logins say what helps. No method brings a root token.
func TestAuthconfigLoginRefused(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	visitorRole(v, "rooted", vaulttest.Read("nothing"))
	root := map[string]any{"token_policies": []string{"root"}, "role_type": "jwt"}
	for _, method := range []string{"jwt", "kubernetes", "approle"} {
		v.Write("auth/"+method+"/role/rooted", root)
	}
	approle := config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "role-id", SecretIDPath: "secret-id"}
	const wrapping = "auth/approle/role/authconfig/secret-id"
	wrapped := approle
	wrapped.SecretIDWrappingPath = wrapping
	again := wrap(t, v, "sys/wrapping/wrap", map[string]any{"secret_id": secretID(v, "authconfig")})
	ended := token(t, v, &api.TokenCreateRequest{})
	if err := v.Root.Auth().Token().RevokeOrphanWithContext(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	stranger := vaulttest.NewAuthority(t)
	for name, c := range map[string]struct {
		auth  config.Auth
		files []string
		want  []string
	}{
		"jwt, root":                {config.Auth{Method: "jwt", Mount: "jwt", Role: "rooted"}, nil, []string{"auth methods cannot create root tokens"}},
		"kubernetes, root":         {config.Auth{Method: "kubernetes", Mount: "kubernetes", Role: "rooted"}, nil, []string{"auth methods cannot create root tokens"}},
		"approle, root":            {approle, []string{"role-id", roleID(v, "rooted"), "secret-id", secretID(v, "rooted")}, []string{"auth methods cannot create root tokens"}},
		"token, root":              {config.Auth{Method: "token", TokenPath: "token"}, []string{"token", v.Root.Token()}, []string{"it is a root token, which no program may have"}},
		"token, revoked":           {config.Auth{Method: "token", TokenPath: "token"}, []string{"token", ended}, []string{"it has run out, or was revoked (put another one there)"}},
		"jwt, role":                {config.Auth{Method: "jwt", Mount: "jwt", Role: "nope"}, nil, []string{`auth/jwt with role "nope" as ServiceAccount shop/nope`, `create the role "nope" at this mount, or correct vault.auth.role`}},
		"jwt, no mount":            {config.Auth{Method: "jwt", Mount: "nowhere", Role: "authconfig"}, nil, []string{"permission denied (403): check that the mount exists and is of type jwt"}},
		"approle, secret ID":       {approle, []string{"role-id", roleID(v, "authconfig"), "secret-id", "wrong-secret-id-of-the-test"}, []string{"invalid role or secret ID (400): a secret ID may have expired"}},
		"approle, wrapped again":   {wrapped, []string{"role-id", roleID(v, "authconfig"), "secret-id", again}, []string{`it was made at "sys/wrapping/wrap" and not at "` + wrapping + `"`}},
		"approle, no such wrapper": {wrapped, []string{"role-id", roleID(v, "authconfig"), "secret-id", "hvs.nothing"}, []string{"treat the secret ID as stolen"}},
	} {
		t.Run(name, func(t *testing.T) {
			k := visit(t, v, c.auth, c.files...)
			_, err := k.Observe(t.Context())
			k.wantError(t, err, c.want...)
		})
	}
	c, err := vault.New(config.Vault{Address: v.Address, CA: stranger.PEM(), Auth: config.Auth{Method: "token", TokenPath: "/x"}}, kept, "kubernetes", slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Observe(t.Context())
	for _, want := range []string{"certificate signed by unknown authority", "vault.ca or vault.caFile must hold the CA that issued Vault's certificate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a Vault of another CA: %v", err)
		}
	}
}

// The token of a file is renewed while authconfig runs, whether it asks or not.
func TestAuthconfigRenewsATokenOfAFile(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	others := token(t, v, &api.TokenCreateRequest{Policies: []string{"authconfig"}, Period: "20s"})
	k := visit(t, v, config.Auth{Method: "token", TokenPath: "token"}, "token", others)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { k.Keep(ctx); close(ended) }()
	vaulttest.Wait(t, "a renewal", func() error { return atLeast(v, 1, renewCall) })
	cancel()
	<-ended
	if err := good(t, v, others); err != nil {
		t.Error(err)
	}
}

// A token that somebody revoked is made up for by one login, unseen. One whose
// policy lost a line says which, and works again when it is back.
func TestAuthconfigHeals(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	k := byJWT(t, v, "authconfig")
	if _, err := k.Enable(t.Context(), "kubernetes", plan.Tune{}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		v.Write(fmt.Sprintf("auth/%s/role/r%d", kept, i), map[string]any{"bound_service_account_names": "a", "bound_service_account_namespaces": "b"})
	}
	k.observe(t)
	v.Write("sys/leases/revoke-prefix/auth/jwt/login", nil)
	if o := k.observe(t); len(o.Roles) != 20 {
		t.Errorf("%d roles", len(o.Roles))
	}
	wantCount(t, v, 2, "update auth/jwt/login")

	all := vault.Policy(kept)
	line := `path "auth/` + kept + `/config" { capabilities = ["read", "update"] }`
	v.Policy("authconfig", strings.ReplaceAll(all, line, ""))
	_, err := k.Observe(t.Context())
	k.wantError(t, err, "reading auth/"+kept+"/config: ", "permission denied", "(403)", `needs "read"`, line)
	v.Policy("authconfig", all)
	k.observe(t)
	wantCount(t, v, 3, "update auth/jwt/login") // since a role's new policies reach new tokens alone
}

// A probe is a login as a pod's, and leaves nothing in Vault.
func TestAuthconfigProbe(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	for _, typ := range []string{"kubernetes", "jwt"} {
		log := &buffer{}
		c, err := vault.New(config.Vault{Address: v.Address, CAFile: v.CAFile, Auth: config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "/x"}}, typ, typ, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		k := &visitor{Client: c, v: v, log: log}
		v.Role("probe", vaulttest.Read("nothing"), map[string]any{"token_policies": []string{}, "token_no_default_policy": true, "token_type": "batch", "token_ttl": "1m"})
		probe := func(role, account string) error {
			return k.Probe(context.Background(), role, sealed.Of(v.Kubernetes.Token(account, time.Hour)))
		}
		before := tokens(t, v)
		if err := probe("probe", "probe"); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		if after := tokens(t, v); after != before {
			t.Errorf("%s: %d tokens, and %d before", typ, after, before)
		}
		k.wantError(t, probe("probe", "other"), "trying a login to "+v.Address+" at auth/"+typ+` with role "probe" as ServiceAccount shop/other (aud "vault"`)
		k.wantError(t, probe("nope", "probe"), `create the role "nope" at this mount`)
		if typ == "kubernetes" {
			v.Kubernetes.Refuse(true)
			k.wantError(t, probe("probe", "probe"), "permission denied (403): Vault says this also when it cannot ask the API server")
			v.Kubernetes.Refuse(false)
		}
		// A role of service tokens that may revoke themselves leaves nothing either.
		v.Role("probe", vaulttest.Read("nothing"), map[string]any{"token_type": "service", "token_no_default_policy": false})
		if err := probe("probe", "probe"); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		if after := tokens(t, v); after != before {
			t.Errorf("%s: %d tokens, and %d before", typ, after, before)
		}
	}
}

// tokens is how many there are in Vault.
func tokens(t *testing.T, v *vaulttest.Vault) int {
	t.Helper()
	answer, err := v.Root.Logical().ListWithContext(t.Context(), "auth/token/accessors")
	if err != nil {
		t.Fatal(err)
	}
	all, _ := answer.Data["keys"].([]any)
	return len(all)
}
