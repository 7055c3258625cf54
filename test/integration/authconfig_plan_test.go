package integration

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const source = "vault-auth/vault-auth-roles"

// A keeper is as much of authconfig as it takes to plan and apply. It may do what
// the published policy allows.
type keeper struct {
	t      *testing.T
	v      *vaulttest.Vault
	client *vault.Client
	target plan.Target
	record plan.Record
}

func keep(t *testing.T, v *vaulttest.Vault, mount string) *keeper {
	t.Helper()
	return keepType(t, v, mount, desired.Kubernetes)
}

func keepType(t *testing.T, v *vaulttest.Vault, mount, typ string) *keeper {
	t.Helper()
	v.Policy("authconfig", vault.Policy(mount))
	orphan, err := v.Root.Auth().Token().CreateOrphanWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"authconfig"}, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(orphan.Auth.ClientToken), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := vault.New(config.Vault{Address: v.Address, Auth: config.Auth{Method: config.MethodToken, TokenPath: file}},
		mount, typ, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return &keeper{t: t, v: v, client: client, target: plan.Target{
		Mount: mount, Type: typ, Sources: []string{source},
		Tune: plan.Tune{Description: "kept by authconfig", MaxLeaseTTL: 8760 * time.Hour},
		Config: desired.CanonicalConfig(typ, map[string]any{
			"kubernetes_host": v.Kubernetes.URL, "kubernetes_ca_cert": v.Kubernetes.CA, "disable_local_ca_jwt": true,
			"jwt_validation_pubkeys": []string{v.Kubernetes.PublicKey},
		}),
		ReviewerToken: new(typ == desired.Kubernetes),
	}}
}

// want makes the target what a ConfigMap asks for.
func (k *keeper) want(data map[string]string) {
	k.t.Helper()
	k.target.Roles = desired.Parse([]desired.ConfigMap{{Source: desired.Source{Namespace: "vault-auth", Name: "vault-auth-roles"}, Data: data}},
		desired.Defaults{MountType: k.target.Type, Audience: vaulttest.Audience})
	if len(k.target.Roles.Problems) > 0 {
		k.t.Fatal(k.target.Roles.Problems)
	}
}

func (k *keeper) plan() plan.Plan {
	k.t.Helper()
	o, err := k.client.Observe(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return plan.Compute(k.target, o, k.record)
}

// apply carries out what there is to do and returns the steps that it tried.
func (k *keeper) apply() ([]string, error) {
	k.t.Helper()
	p := k.plan()
	results, record, err := apply.Run(k.t.Context(), p, apply.Deps{Vault: k.client, Records: nowhere{}, Config: k, Stored: k.record})
	k.record = record
	var steps []string
	for _, r := range results {
		steps = append(steps, fmt.Sprintf("%s %s %s", r.Step.Verb, r.Step.Kind, r.Step.Name))
	}
	return steps, err
}

func (k *keeper) must(steps ...string) {
	k.t.Helper()
	if got, err := k.apply(); err != nil || !slices.Equal(got, steps) {
		k.t.Fatalf("it did %q and not %q (%v)", got, steps, err)
	}
}

// Write is what a reviewer does of it.
func (k *keeper) Write(ctx context.Context, _, after desired.Fields, _ *plan.Record) error {
	var token sealed.Value[string]
	if *k.target.ReviewerToken {
		token = sealed.Of(k.v.Kubernetes.Token("reviewer", time.Hour))
	}
	return k.client.WriteConfig(ctx, after, token)
}

// nowhere is where a record goes that Run returns too.
type nowhere struct{}

func (nowhere) SaveRecord(context.Context, plan.Record) error { return nil }

const app = `{"bound_service_account_names": ["app"], "bound_service_account_namespaces": ["shop"], "token_policies": ["app"], "token_ttl": 600}`

// mountAccessor is that of a mount; empty where there is none.
func mountAccessor(t *testing.T, v *vaulttest.Vault, mount string) string {
	t.Helper()
	all, err := v.Root.Sys().ListAuthWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if all[mount+"/"] == nil {
		return ""
	}
	return all[mount+"/"].Accessor
}

func TestRolesAreKeptFromTheFirstToTheLast(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	const mount = "clusters/staging/backend"
	k := keep(t, v, mount)
	k.want(map[string]string{"App": app})

	k.must("create mount "+mount, "create config "+mount, "create role app")
	role := v.Get("auth/" + mount + "/role/app")
	if got := fmt.Sprintf("%v %v %v %v", role["bound_service_account_names"], role["token_policies"], role["token_ttl"], role["audience"]); got != "[app] [app] 600 vault" {
		t.Errorf("the role is %s", got)
	}
	if set := v.Get("auth/" + mount + "/config")["token_reviewer_jwt_set"]; set != true {
		t.Errorf("token_reviewer_jwt_set is %v", set)
	}
	login, err := v.Root.Logical().WriteWithContext(t.Context(), "auth/"+mount+"/login", map[string]any{"role": "app", "jwt": v.Kubernetes.Token("app", time.Hour)})
	if err != nil || login.Auth == nil {
		t.Errorf("logging in: %v", err)
	}

	before := len(v.Calls())
	k.must()
	second := v.Calls()[before:]
	slices.Sort(second)
	want := []string{"list auth/" + mount + "/role/", "read auth/" + mount + "/config", "read auth/" + mount + "/role/app", "read sys/auth"}
	if !slices.Equal(second, want) {
		t.Errorf("with nothing to do, it asked %q and not %q", second, want)
	}

	v.Write("auth/"+mount+"/role/app", map[string]any{"token_policies": []string{"app", "admin"}, "bound_service_account_namespace_selector": `{"matchLabels":{"a":"b"}}`})
	v.Write("auth/"+mount+"/config", map[string]any{"kubernetes_host": v.Kubernetes.URL, "kubernetes_ca_cert": v.Kubernetes.CA, "disable_local_ca_jwt": true})
	p := k.plan()
	if len(p.Steps) != 2 || !p.Steps[0].Drift || !p.Steps[1].Drift {
		t.Errorf("the drift is not seen: %+v", p.Steps)
	}
	k.must("change config "+mount, "change role app")
	if now := v.Get("auth/" + mount + "/role/app"); !reflect.DeepEqual(now, role) {
		t.Errorf("the role is %v and was %v", now, role)
	}

	k.want(map[string]string{"App": strings.Replace(app, "600", "1200", 1), "web": app})
	k.must("change role app", "create role web")
	k.want(nil)
	k.must("delete role app", "delete role web")
	if left := v.Get("auth/" + mount + "/role/app"); left != nil {
		t.Errorf("the role is still there: %v", left)
	}
	k.must()
}

func TestRolesOfAMountOfTypeJWTAreKept(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keepType(t, v, "cluster", desired.JWT)
	k.want(map[string]string{"app": app})
	k.must("create mount cluster", "create config cluster", "create role app")
	k.must()
	for account, good := range map[string]bool{"app": true, "other": false} {
		login, err := v.Root.Logical().WriteWithContext(t.Context(), "auth/cluster/login", map[string]any{"role": "app", "jwt": v.Kubernetes.Token(account, time.Hour)})
		if (err == nil && login.Auth != nil) != good {
			t.Errorf("logging in as %s: %v", account, err)
		}
	}
	v.Write("auth/cluster/role/app", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_claims": map[string]any{}})
	v.Write("auth/cluster/config", map[string]any{"jwt_validation_pubkeys": []string{v.Kubernetes.PublicKey}, "bound_issuer": "https://other"})
	k.must("change config cluster", "change role app")
	k.must()
	k.want(nil)
	k.must("delete role app")
}

func TestAHandMadeRoleSurvives(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keep(t, v, "cluster")
	k.want(map[string]string{"app": app})
	k.must("create mount cluster", "create config cluster", "create role app")
	mine := map[string]any{"bound_service_account_names": []string{"x"}, "bound_service_account_namespaces": []string{"y"}, "token_policies": []string{"z"}}
	v.Write("auth/cluster/role/by-hand", mine)
	v.Write("auth/cluster/role/wanted", mine)
	byHand, wanted := v.Get("auth/cluster/role/by-hand"), v.Get("auth/cluster/role/wanted")

	k.want(map[string]string{"wanted": app})
	k.must("delete role app")
	if p := k.plan(); len(p.Steps) > 0 || len(p.Refused) != 1 || p.Refused[0].Name != "wanted" || p.Refused[0].Source != source {
		t.Errorf("it is not refused: %+v", p)
	}
	k.want(nil)
	k.must()
	for name, before := range map[string]map[string]any{"by-hand": byHand, "wanted": wanted} {
		if now := v.Get("auth/cluster/role/" + name); !reflect.DeepEqual(now, before) {
			t.Errorf("role %s is %v and was %v", name, now, before)
		}
	}

	k.target.Adopt = true
	k.want(map[string]string{"wanted": app})
	k.must("change role wanted")
	k.want(nil)
	k.must("delete role wanted")
	if now := v.Get("auth/cluster/role/by-hand"); !reflect.DeepEqual(now, byHand) {
		t.Errorf("role by-hand is %v and was %v", now, byHand)
	}
}

func TestAMountOfAnotherTypeIsRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keep(t, v, "taken")
	if err := v.Root.Sys().EnableAuthWithOptionsWithContext(t.Context(), "taken", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		t.Fatal(err)
	}
	was := mountAccessor(t, v, "taken")
	k.target.Adopt = true
	k.want(map[string]string{"app": app})
	p := k.plan()
	if len(p.Steps) > 0 || len(p.Refused) != 1 || !strings.Contains(p.Refused[0].Text, "approle") {
		t.Errorf("it is not refused by the name of the type: %+v", p)
	}
	k.must()
	if now := mountAccessor(t, v, "taken"); now != was {
		t.Errorf("the accessor is %s and was %s", now, was)
	}
	for _, call := range v.Calls() {
		if !strings.HasPrefix(call, "read ") {
			t.Errorf("it has changed something: %s", call)
		}
	}
}

func TestAMountBelowAnotherIsRefused(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{}) // with a mount kubernetes
	if err := v.Root.Sys().EnableAuthWithOptionsWithContext(t.Context(), "a/b/c", &api.EnableAuthOptions{Type: "kubernetes"}); err != nil {
		t.Fatal(err)
	}
	for mount, other := range map[string]string{"kubernetes/staging/backend": "auth/kubernetes:", "a/b": "auth/a/b/c:"} {
		k := keep(t, v, mount)
		if p := k.plan(); len(p.Steps) > 0 || len(p.Refused) != 1 || !strings.Contains(p.Refused[0].Text, other) {
			t.Errorf("at %s it is not refused because of %s %+v", mount, other, p)
		}
		// Vault would refuse it as well.
		if _, err := k.client.Enable(t.Context(), desired.Kubernetes, plan.Tune{}); err == nil {
			t.Errorf("Vault has made %s", mount)
		}
	}
}

func TestAMountOfOthersIsAdoptedAndTunedOnlyIfAsked(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keep(t, v, "kubernetes") // the harness has made it
	v.Role("app", vaulttest.Read("kv/data/app"), nil)
	v.Role("other", vaulttest.Read("kv/data/other"), nil)
	k.want(map[string]string{"app": app})
	was, other := mountAccessor(t, v, "kubernetes"), v.Get("auth/kubernetes/role/other")
	if p := k.plan(); len(p.Steps) > 0 || len(p.Refused) != 1 || !strings.Contains(p.Refused[0].Text, "mount.adopt") {
		t.Errorf("it is not refused: %+v", p)
	}
	k.target.Adopt = true
	k.must("adopt mount kubernetes", "change tune kubernetes", "change config kubernetes", "change role app")
	if now := mountAccessor(t, v, "kubernetes"); now != was {
		t.Errorf("the mount was made anew: its accessor is %s and was %s", now, was)
	}
	all, err := v.Root.Sys().ListAuthWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := all["kubernetes/"]; m.Description != "kept by authconfig" || m.Config.MaxLeaseTTL != 8760*3600 {
		t.Errorf("it is described as %q, with a max TTL of %d s", m.Description, m.Config.MaxLeaseTTL)
	}
	k.target.Tune = plan.Tune{Description: "other"}
	k.must("change tune kubernetes")
	if o, err := k.client.Observe(t.Context()); err != nil || o.Mount.Tune != k.target.Tune {
		t.Errorf("it is tuned to %+v (%v)", o.Mount, err)
	}
	k.target.Adopt = false
	k.want(nil)
	k.must("delete role app")
	if now := v.Get("auth/kubernetes/role/other"); !reflect.DeepEqual(now, other) {
		t.Errorf("role other is %v and was %v", now, other)
	}
}

func TestAFieldThatVaultDoesNotKnowIsAnErrorAndUndone(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keep(t, v, "cluster")
	k.want(map[string]string{"app": app})
	k.must("create mount cluster", "create config cluster", "create role app")
	was := v.Get("auth/cluster/role/app")

	withMetadata := strings.Replace(app, "{", `{"alias_metadata": {"team": "shop"}, `, 1)
	for _, audience := range []string{"", `"audience": "", `} { // Vault answers nothing, or a warning of its own
		role := strings.Replace(withMetadata, "{", "{"+audience, 1)
		k.want(map[string]string{"app": role, "fresh": role})
		_, err := k.apply()
		if err == nil || strings.Count(err.Error(), "Vault does not know alias_metadata") != 2 || !strings.Contains(err.Error(), "auth/cluster/role/fresh") {
			t.Errorf("with %q, the error is %v", audience, err)
		}
		if now := v.Get("auth/cluster/role/app"); !reflect.DeepEqual(now, was) {
			t.Errorf("with %q, the role is %v and was %v", audience, now, was)
		}
		if now := v.Get("auth/cluster/role/fresh"); now != nil {
			t.Errorf("with %q, the new role is still there: %v", audience, now)
		}
	}
}

func TestARenamedRoleIsThereAtEachMoment(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	k := keep(t, v, "cluster")
	roles := map[string]string{}
	for i := range 20 {
		roles[fmt.Sprintf("role-%02d", i)] = app
	}
	roles["old"] = app
	k.want(roles)
	if _, err := k.apply(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan string, 1)
	go func() {
		defer close(gone)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			list, err := v.Root.Logical().ListWithContext(ctx, "auth/cluster/role")
			if err != nil {
				return
			}
			if names := fmt.Sprint(list.Data["keys"]); !strings.Contains(names, "old") && !strings.Contains(names, "zz-new") {
				gone <- names
				return
			}
			<-tick.C
		}
	}()
	roles = maps.Clone(roles)
	delete(roles, "old")
	roles["zz-new"] = strings.Replace(app, "600", "700", 1)
	for name := range roles {
		roles[name] = strings.Replace(roles[name], "600", "700", 1)
	}
	k.want(roles)
	steps, err := k.apply()
	cancel()
	if names, ok := <-gone; ok {
		t.Errorf("there was neither the old role nor the new one: %s", names)
	}
	if err != nil || !slices.Contains(steps, "delete role old") {
		t.Errorf("it did %q (%v)", steps, err)
	}
}
