package integration

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// roles are ConfigMap data. What Vault answers of each has to be what was read
// from it, or it would be written again and again. The order is that in which
// they are written over each other.
var roles = []struct{ name, role string }{
	{"least", `{"bound_service_account_names": ["app"], "bound_service_account_namespaces": ["shop"], "token_policies": ["kv-read"]}`},
	{"every field", `
bound_service_account_names: [app, "b*", a.b-c, app]
bound_service_account_namespaces: ["team-*", shop]
bound_service_account_namespace_selector: {matchLabels: {team: shop, example.com/env: prod}}
audience: other
alias_name_source: serviceaccount_name
token_policies: [Kv-Read, "äpfel", default, kv-read]
token_ttl: 90m
token_max_ttl: "7200"
token_period: 1h30m
token_explicit_max_ttl: 2d
token_num_uses: 5
token_bound_cidrs: ["10.1.2.3/8", 10.1.2.3/32, "2001:DB8:0::1/32", "::1", 0.0.0.0/0, 127.0.0.1]
token_no_default_policy: true
token_type: service`},
	{"least again", `{"bound_service_account_names": "app", "bound_service_account_namespaces": "shop", "policies": "kv-read"}`},
	{"a selector alone", `{"bound_service_account_names": "app", "bound_service_account_namespace_selector": "matchLabels: {a: b}", "policies": "kv-read", "audience": ""}`},
	{"old names", `{"bound_service_account_names": "b,a", "bound_service_account_namespaces": "*", "policies": "x,default", "ttl": "1h", "max_ttl": 7200, "period": "1m", "num_uses": "3", "bound_cidrs": "10.0.0.0/8"}`},
	{"batch", `{"bound_service_account_names": "a", "bound_service_account_namespaces": "b", "policies": "x", "token_type": "batch", "ttl": 60}`},
}

func read(t *testing.T, role, mountType string) (desired.Fields, []desired.Problem) {
	t.Helper()
	r := desired.Parse([]desired.ConfigMap{{Data: map[string]string{"app": role}}}, desired.Defaults{MountType: mountType, Audience: vaulttest.Audience})
	return r.Roles["app"].Fields, r.Problems
}

func TestRolesAreReadBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	for _, mount := range []string{"kubernetes", "jwt"} {
		written := 0
		var before desired.Fields
		for _, c := range roles {
			role := c.role
			if mount == "jwt" {
				role = strings.ReplaceAll(role, "bound_service_account_namespace_selector: {matchLabels: {team: shop, example.com/env: prod}}", "")
			}
			want, problems := read(t, role, mount)
			if len(problems) > 0 {
				if mount == "kubernetes" || c.name != "a selector alone" {
					t.Errorf("%s: role %q: %q", mount, c.name, problems)
				}
				continue
			}
			v.Write("auth/"+mount+"/role/app", desired.Sent(want, before))
			got := desired.Canonical(mount, v.Get("auth/"+mount+"/role/app"))
			if !desired.Equal(got, want) {
				t.Errorf("%s: role %q is\n%v\nread back\n%v", mount, c.name, want, got)
			}
			before = got
			written++
		}
		if written < 5 {
			t.Errorf("%s: %d roles written", mount, written)
		}
		probe := desired.Probe(desired.Defaults{MountType: mount, Audience: vaulttest.Audience}, vaulttest.Namespace, "app")
		v.Write("auth/"+mount+"/role/probe", desired.Sent(probe, nil))
		if got := desired.Canonical(mount, v.Get("auth/"+mount+"/role/probe")); !desired.Equal(got, probe) {
			t.Errorf("%s: the probe's role is\n%v\nread back\n%v", mount, probe, got)
		}
	}
}

// Somebody may have written the same role with other words; nothing differs then.
func TestRolesWrittenByHandAreTheSame(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	want, problems := read(t, `
bound_service_account_names: [b, a]
bound_service_account_namespaces: [default]
bound_service_account_namespace_selector: {matchLabels: {b: c, a: b}}
policies: [default, kv-read]
ttl: 1h
token_bound_cidrs: [10.0.0.0/8]`, "kubernetes")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	byHand := map[string]any{
		"bound_service_account_names": "a, b,a", "bound_service_account_namespaces": "default", "audience": vaulttest.Audience,
		"bound_service_account_namespace_selector": "matchLabels:\n  a: b\n  b: c\n", "policies": "KV-read,default", "ttl": "60m", "bound_cidrs": "10.1.2.3/8",
	}
	v.Write("auth/kubernetes/role/App", byHand)
	if got := desired.Canonical("kubernetes", v.Get("auth/kubernetes/role/app")); !desired.Equal(got, want) {
		t.Errorf("%v\nwant\n%v", got, want)
	}
	for name, value := range map[string]any{
		"audience": "", "bound_service_account_names": "a", "bound_service_account_namespaces": "default,shop", "policies": "kv-read",
		"bound_service_account_namespace_selector": "{}", "ttl": 3601, "max_ttl": 7200, "num_uses": 1, "bound_cidrs": "10.0.0.0/9",
		"period": 1, "token_explicit_max_ttl": 1, "token_no_default_policy": true, "token_type": "service", "alias_name_source": "serviceaccount_name",
	} {
		v.Delete("auth/kubernetes/role/app")
		other := maps.Clone(byHand)
		other[name] = value
		v.Write("auth/kubernetes/role/app", other)
		if got := desired.Canonical("kubernetes", v.Get("auth/kubernetes/role/app")); desired.Equal(got, want) {
			t.Errorf("no difference with %s = %v", name, value)
		}
	}
}

func TestConfigsAreReadBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	ca, key := "# the cluster's CA\n"+v.Kubernetes.CA+"\n", strings.TrimSpace(v.Kubernetes.PublicKey)
	for mount, config := range map[string]map[string]any{
		"kubernetes": {"kubernetes_host": "https://k:6443", "kubernetes_ca_cert": ca, "pem_keys": []string{key}, "disable_local_ca_jwt": true, "use_annotations_as_alias_metadata": true},
		"jwt":        {"jwt_validation_pubkeys": []string{key}, "bound_issuer": "https://kubernetes.default.svc", "jwt_supported_algs": []string{"RS256", "ES256"}},
	} {
		want := desired.CanonicalConfig(mount, config)
		v.Write("auth/"+mount+"/config", desired.Sent(want, nil))
		if got := desired.CanonicalConfig(mount, v.Get("auth/"+mount+"/config")); !desired.Equal(got, want) {
			t.Errorf("%s: config is\n%v\nread back\n%v", mount, want, got)
		}
	}
}

// A role means the same on a mount of either type: the same ServiceAccounts log
// in, with the same policies, and with the metadata that policies refer to.
func TestRolesMeanTheSameOnEitherMount(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	const uid, name = "uid-of-app", "system:serviceaccount:shop:app"
	for _, c := range []struct {
		role   string
		reason string // of the refusal by a mount of type kubernetes; empty if it is none
		alias  string // with a mount of type jwt
	}{
		{`{"bound_service_account_names": "app", "bound_service_account_namespaces": "shop"`, "", uid},
		{`{"bound_service_account_names": ["other", "a*p"], "bound_service_account_namespaces": ["x", "s*"], "alias_name_source": "serviceaccount_name"`, "", name},
		{`{"bound_service_account_names": "app", "bound_service_account_namespaces": "*"`, "", uid},
		{`{"bound_service_account_names": "ap", "bound_service_account_namespaces": "shop"`, "service account name not authorized", ""},
		{`{"bound_service_account_names": "app", "bound_service_account_namespaces": ["sho", "shop-*"]`, "namespace not authorized", ""},
		{`{"bound_service_account_names": "app", "bound_service_account_namespaces": "shop", "audience": "other"`, "audience", ""},
	} {
		for _, mount := range []string{"kubernetes", "jwt"} {
			role, problems := read(t, c.role+`, "policies": "KV-Read", "ttl": "10m"}`, mount)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			v.Write("auth/"+mount+"/role/app", desired.Sent(role, nil))
			secret, err := v.Root.Logical().WriteWithContext(t.Context(), "auth/"+mount+"/login", map[string]any{"role": "APP", "jwt": v.Kubernetes.Token("app", time.Hour)})
			switch {
			case c.reason != "":
				if err == nil || mount == "kubernetes" && !strings.Contains(err.Error(), c.reason) {
					t.Errorf("%s: role %s: %v, want %q", mount, c.role, err, c.reason)
				}
				continue
			case err != nil:
				t.Errorf("%s: role %s: %v", mount, c.role, err)
				continue
			}
			a := secret.Auth
			if !slices.Equal(a.Policies, []string{"default", "kv-read"}) || a.LeaseDuration != 600 ||
				a.Metadata["service_account_name"] != "app" || a.Metadata["service_account_namespace"] != "shop" || a.Metadata["service_account_uid"] != uid {
				t.Errorf("%s: role %s: policies %q, %d s, metadata %v", mount, c.role, a.Policies, a.LeaseDuration, a.Metadata)
			}
			if mount == "jwt" {
				alias := v.Get("identity/entity/id/" + a.EntityID)["aliases"].([]any)
				if got := alias[len(alias)-1].(map[string]any)["name"]; got != c.alias {
					t.Errorf("role %s: alias %v, want %s", c.role, got, c.alias)
				}
			}
		}
	}
}
