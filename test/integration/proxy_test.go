package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// proxy makes an agent without files whose app asks Vault through it, and a
// client of the app's, without a token.
func proxy(t *testing.T, v *vaulttest.Vault, role string) (*vaulttest.Agent, *api.Client) {
	t.Helper()
	a := v.Agent(role)
	host, _, err := net.SplitHostPort(a.Config.Serve)
	if err != nil {
		t.Fatal(err)
	}
	a.Config.Local = &config.Local{Listen: net.JoinHostPort(host, "8300"), Proxy: &config.Proxy{RequireHeader: true}, Quit: true}
	app, err := api.NewClient(&api.Config{Address: "http://" + a.Config.Local.Listen, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	app.ClearToken()
	app.SetMaxRetries(0)
	return a, app
}

// Vault's own client works through the proxy without a token, cannot get or end
// the one that is lent, and uses its own where it has one.
func TestProxy(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	v.Role("app", vaulttest.Read("kv/data/app", "sys/leases/revoke"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	a, app := proxy(t, v, "app")
	a.Start()
	a.WaitReady()
	ctx := t.Context()

	read := func() error {
		secret, err := app.KVv2("kv").Get(ctx, "app")
		if err != nil {
			return err
		}
		if secret.Data["password"] != "first-password" {
			return fmt.Errorf("the app reads %v", secret.Data)
		}
		return nil
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	self, err := app.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil || self.Data["id"] != "" || self.Data["accessor"] == "" {
		t.Fatalf("lookup-self: %v, %v", self, err)
	}
	if renewed, err := app.Auth().Token().RenewSelfWithContext(ctx, 0); err != nil || renewed.Auth.ClientToken != "" || renewed.Auth.Accessor != self.Data["accessor"] {
		t.Errorf("renew-self: %v, %v", renewed, err)
	}
	if err := app.Auth().Token().RevokeSelfWithContext(ctx, ""); err == nil || !strings.Contains(err.Error(), "not revoked by an app") {
		t.Errorf("revoke-self: %v", err)
	}
	if _, err := app.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{}); err == nil || !strings.Contains(err.Error(), "no token is made") {
		t.Errorf("create: %v", err)
	}
	for _, path := range []string{"/v1/auth/token/%2e%2e/token/revoke-self", "/v1//auth/token/revoke-self", "/v1/auth%2Ftoken/revoke-self", "/v1/Auth/token/revoke-self", "/v1/auth/token/revoke-self/"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, app.Address()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Request", "true")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if err := read(); err != nil {
		t.Errorf("after all that: %v", err)
	}

	// A login of the app's own, through the proxy: its token is its own to end.
	login, err := app.Logical().WriteWithContext(ctx, "auth/kubernetes/login", map[string]any{"role": "app", "jwt": v.Kubernetes.Token("app", time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	own, err := app.Clone()
	if err != nil {
		t.Fatal(err)
	}
	own.SetToken(login.Auth.ClientToken)
	if secret, err := own.Auth().Token().LookupSelfWithContext(ctx); err != nil || secret.Data["id"] != login.Auth.ClientToken {
		t.Errorf("with a token of its own: %v", err)
	}
	if err := own.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		t.Errorf("revoking it: %v", err)
	}
	if _, err := own.Auth().Token().LookupSelfWithContext(ctx); err == nil {
		t.Error("it is good still")
	}

	// An outage, and its end.
	v.Kill()
	if err := read(); err == nil || !strings.Contains(err.Error(), "Code: 503") {
		t.Errorf("without Vault: %v", err)
	}
	v.Restart()
	vaulttest.Wait(t, "the app to read again", read)

	// The end of the agent leaves the token to the app.
	if code := a.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if v.Write("auth/token/lookup-accessor", map[string]any{"accessor": self.Data["accessor"]}) == nil {
		t.Error("the token is gone")
	}
}

// A leased answer is made once, until something is revoked; and a token that was
// revoked behind the agent's back is noticed by the first request.
func TestProxySharesLeases(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Mount("pki", "pki", api.MountConfigInput{MaxLeaseTTL: "24h"})
	v.Write("pki/root/generate/internal", map[string]any{"common_name": "test", "key_type": "ec", "key_bits": 256, "ttl": "24h"})
	v.Write("pki/roles/app", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "ttl": "1h", "generate_lease": true})
	v.Role("app", vaulttest.Read("pki/issue/app", "sys/leases/revoke"), nil)
	a, app := proxy(t, v, "app")
	a.Start()
	a.WaitReady()
	issue := func(name string) *api.Secret {
		t.Helper()
		secret, err := app.Logical().WriteWithContext(t.Context(), "pki/issue/app", map[string]any{"common_name": name})
		if err != nil || secret.LeaseID == "" {
			t.Fatalf("issuing: %v, %v", secret, err)
		}
		return secret
	}
	first := issue("app.test")
	again := issue("app.test")
	if again.LeaseID != first.LeaseID || again.Data["serial_number"] != first.Data["serial_number"] || again.LeaseDuration > first.LeaseDuration || again.LeaseDuration < 3000 {
		t.Errorf("asked again: lease %s of %d s, first %s of %d s", again.LeaseID, again.LeaseDuration, first.LeaseID, first.LeaseDuration)
	}
	if issue("other.test").LeaseID == first.LeaseID {
		t.Error("another request shares the lease")
	}
	wantCount(t, v, 2, "update pki/issue/app")
	if err := app.Sys().RevokeWithContext(t.Context(), first.LeaseID); err != nil {
		t.Fatal(err)
	}
	last := issue("app.test")
	if last.LeaseID == first.LeaseID {
		t.Error("a revoked lease is shared")
	}

	self, err := app.Auth().Token().LookupSelfWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v.Write("auth/token/revoke-accessor", map[string]any{"accessor": self.Data["accessor"]})
	if _, err := app.Auth().Token().LookupSelfWithContext(t.Context()); err == nil {
		t.Error("the token is good still")
	}
	vaulttest.Wait(t, "another login", func() error {
		_, err := app.Auth().Token().LookupSelfWithContext(t.Context())
		return err
	})
	if issue("app.test").LeaseID == last.LeaseID {
		t.Error("a lease is shared that ended with its token")
	}

	resp, err := http.Post(app.Address()+"/agent/v1/quit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code := a.WaitEnd(); resp.StatusCode != http.StatusNoContent || code != 0 {
		t.Errorf("asked to quit: %s, exit code %d", resp.Status, code)
	}
}

// The token file holds a wrapping that can be opened once, and the CA lies
// beside it.
func TestWrappedTokenFile(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	v.Role("app", vaulttest.Read("kv/data/app"), nil)
	a := v.Agent("app")
	a.Config.TokenFile = &config.TokenFile{Path: "vault/token", Mode: 0o400, CA: true, WrapTTL: config.Duration(15 * time.Second)}
	a.Start()
	a.WaitReady()
	want, err := os.ReadFile(v.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	a.WaitFile("vault/ca.crt", string(want))
	for range 2 {
		wrapping, err := a.File("vault/token")
		if err != nil {
			t.Fatal(err)
		}
		opened, err := v.Client(wrapping).Logical().UnwrapWithContext(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		token, _ := opened.Data["token"].(string)
		if self, err := v.Client(token).Auth().Token().LookupSelfWithContext(t.Context()); err != nil || self.Data["accessor"] != opened.Data["accessor"] {
			t.Errorf("the token in it: %v", err)
		}
		if _, err := v.Client(wrapping).Logical().UnwrapWithContext(t.Context(), ""); err == nil {
			t.Error("it is opened twice")
		}
		a.WaitChange("vault/token", wrapping)
	}
	wantCount(t, v, 1, loginCall)
}
