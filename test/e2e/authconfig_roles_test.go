package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// quick has what others change in Vault repaired within seconds.
const quick = "resync: 5s\n"

// Roles come and go with the keys of their ConfigMap, and with nothing else: not
// with what is wrong in it, and not if it is gone. What others made stays.
func TestRolesFollowTheirConfigMap(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	app := s.RoleFor("app", nil)
	s.SetRoles(map[string]string{
		"app": app,
		// As `vault write` takes it, with the names of fields that are deprecated.
		"DefaultPolicyForPod": fmt.Sprintf("{bound_service_account_names: app, bound_service_account_namespaces: %s, policies: default, ttl: 1h}", s.Name),
	})
	// With the resync of 10 minutes a change in Vault within the test's patience comes
	// from watching the ConfigMap.
	a := s.Authconfig(v, "")
	a.WaitRoles("app", "defaultpolicyforpod")
	a.WaitLogin("app", "app", harness.Audience)
	if err := a.Login("DefaultPolicyForPod", "app", harness.Audience); err != nil {
		t.Errorf("logging in with the role as it was written: %v", err)
	}
	wantRole(t, a, "defaultpolicyforpod", map[string]any{"token_policies": "[default]", "token_ttl": "3600", "audience": harness.Audience})

	byHand := map[string]any{"bound_service_account_names": "x", "bound_service_account_namespaces": "y", "token_policies": "z"}
	v.Write("auth/"+a.Mount+"/role/by-hand", byHand)

	t.Log("a key that does not parse, and one whose field nobody knows")
	s.SetRoles(map[string]string{
		"app":                 `{"bound_service_account_names": [`,
		"defaultpolicyforpod": s.RoleFor("app", map[string]any{"audiance": "x"}),
		"new":                 app,
	})
	a.WaitRoles("app", "by-hand", "defaultpolicyforpod", "new")
	e := s.WaitEvent("ConfigMap", harness.RolesName, "InvalidRole", "defaultpolicyforpod", "audiance", `"audience"`)
	t.Logf("event: %s", e.Message)
	e = s.WaitEvent("ConfigMap", harness.RolesName, "InvalidRole", "app")
	t.Logf("event: %s", e.Message)
	a.WaitMetric(fmt.Sprintf("latchkey_authconfig_invalid_role{role=%q,source=%q} 1", "app", s.Name+"/"+harness.RolesName))
	if err := a.Login("app", "app", harness.Audience); err != nil {
		t.Errorf("logging in with the role whose key is broken now: %v", err)
	}

	t.Log("the ConfigMap is deleted")
	if err := s.Kube.CoreV1().ConfigMaps(s.Name).Delete(t.Context(), harness.RolesName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log(a.WaitSaid(harness.RolesName, "leave it empty"))
	a.WaitRoles("app", "by-hand", "defaultpolicyforpod", "new")

	t.Log("it is there again, with fewer keys")
	s.SetRoles(map[string]string{"app": app})
	a.WaitRoles("app", "by-hand")
	a.WaitMetric(`latchkey_authconfig_roles{state="invalid"} 0`)

	t.Log("a role is renamed")
	polls, gap := watchRoles(t, a, "app", "renamed", func() {
		edited := time.Now()
		s.SetRoles(map[string]string{"renamed": app})
		a.WaitRoles("by-hand", "renamed")
		t.Logf("Vault had it after %s", time.Since(edited).Round(100*time.Millisecond))
	})
	if gap != "" {
		t.Errorf("of %d looks at Vault one saw %s", polls, gap)
	}

	t.Log("a role is changed by hand, and deleted by hand")
	a.Install(quick)
	v.Write("auth/"+a.Mount+"/role/renamed", map[string]any{"bound_service_account_names": "*", "token_policies": "root"})
	s.Eventually("the role to be as it was", func() error {
		if got := fmt.Sprint(v.Read("auth/" + a.Mount + "/role/renamed")["token_policies"]); got != "[default]" {
			return fmt.Errorf("its policies are %s", got)
		}
		return nil
	})
	wantRole(t, a, "renamed", map[string]any{"bound_service_account_names": "[app]", "audience": harness.Audience})
	v.Delete("auth/" + a.Mount + "/role/renamed")
	a.WaitRoles("by-hand", "renamed")

	t.Log("a wanted role is one that somebody made")
	s.SetRoles(map[string]string{"by-hand": app, "renamed": app})
	e = s.WaitEvent("ConfigMap", harness.RolesName, "Refused", "by-hand", "adopt")
	t.Logf("event: %s", e.Message)
	out, code := a.Run("plan")
	if code != 2 || !strings.Contains(out, "by-hand") || !strings.Contains(out, "adopt") {
		t.Errorf("plan ended with %d, want 2, and printed\n%s", code, out)
	}
	wantRole(t, a, "by-hand", map[string]any{"bound_service_account_names": "[x]"})
	a.Install(quick + "mount: {adopt: true}")
	s.Eventually("the role to be taken over", func() error {
		if got := fmt.Sprint(v.Read("auth/" + a.Mount + "/role/by-hand")["bound_service_account_names"]); got != "[app]" {
			return fmt.Errorf("it is for %s", got)
		}
		return nil
	})
	if out, code := a.Run("plan"); code != 0 {
		t.Errorf("plan ended with %d, want 0, and printed\n%s", code, out)
	}

	t.Log("all are removed, but for one that is nobody's")
	v.Write("auth/"+a.Mount+"/role/by-hand-too", byHand)
	s.SetRoles(nil)
	a.WaitRoles("by-hand-too")
}

// wantRole compares fields of a role in Vault, as fmt prints them.
func wantRole(t *testing.T, a *harness.Authconfig, name string, want map[string]any) {
	t.Helper()
	got := a.Vault.Read("auth/" + a.Mount + "/role/" + name)
	for field, value := range want {
		if fmt.Sprint(got[field]) != value {
			t.Errorf("role %s has %s %v, want %v", name, field, got[field], value)
		}
	}
}

// watchRoles looks again and again which roles there are, while f runs, and tells
// a moment at which there was neither of two.
func watchRoles(t *testing.T, a *harness.Authconfig, one, other string, f func()) (polls int, gap string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			answer, err := a.Vault.Root.Logical().ListWithContext(context.WithoutCancel(ctx), "auth/"+a.Mount+"/role")
			if err != nil {
				gap = err.Error()
				return
			}
			polls++
			if names, _ := answer.Data["keys"].([]any); !slices.Contains(names, any(one)) && !slices.Contains(names, any(other)) {
				gap = fmt.Sprintf("%v", names)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	f()
	cancel()
	<-done
	return polls, gap
}

// A mount of several clusters' Vault lies at any path; its description and its
// longest life are the configured ones, and it is made once.
func TestMountIsKept(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	const mount = "kubernetes/staging/backend"
	values := func(description string) string {
		return quick + "mount: {description: " + description + ", maxLeaseTTL: 8760h}"
	}
	a := s.AuthconfigFor(v, mount, values("staging"))
	a.WaitLogin("app", "app", harness.Audience)
	first := mountOf(a)
	if first.description != "staging" || first.maxTTL != "31536000" {
		t.Errorf("the mount is %+v", first)
	}
	a.Install(values("backend"))
	s.Eventually("the mount to be described anew", func() error {
		if m := mountOf(a); m.description != "backend" {
			return fmt.Errorf("the mount is %+v", m)
		}
		return nil
	})
	if again := mountOf(a); again.accessor != first.accessor {
		t.Errorf("the mount was made again: %+v, before it was %+v", again, first)
	}

	t.Log("Vault has to trust another authority of the API server too")
	bundle := clusterCA(t, s) + string(foreignCA())
	a.Install(values("backend") + "\nkubernetes:\n  ca: |\n" + indent(4, bundle))
	s.Eventually("the bundle in Vault's config", func() error {
		if n := strings.Count(fmt.Sprint(v.Read("auth/" + mount + "/config")["kubernetes_ca_cert"]), "BEGIN CERTIFICATE"); n != strings.Count(bundle, "BEGIN CERTIFICATE") {
			return fmt.Errorf("it has %d certificates", n)
		}
		return nil
	})
	if err := a.Login("app", "app", harness.Audience); err != nil {
		t.Errorf("logging in after the authorities changed: %v", err)
	}

	t.Log("Vault is put back to a time before the mount was made")
	v.Delete("sys/auth/" + mount)
	a.WaitLogin("app", "app", harness.Audience)
	if again := mountOf(a); again.accessor == first.accessor || again.description != "backend" {
		t.Errorf("the mount that was made again is %+v, the first one was %+v", again, first)
	}
}

// A path that another method has is refused, and one that somebody else made of
// the same: nothing is changed in either.
func TestMountOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	v.Write("sys/auth/kubernetes", map[string]any{"type": "approle"})
	a := s.Authconfig(v, quick)
	t.Log(a.WaitSaid("auth/kubernetes", "approle"))
	if m := mountOf(a); m.typ != "approle" {
		t.Errorf("the mount is %+v", m)
	}

	v.Delete("sys/auth/kubernetes")
	a.WaitLogin("app", "app", harness.Audience)

	t.Log("a Vault that somebody configured")
	v.Delete("sys/auth/kubernetes")
	v.Write("sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	v.Write("auth/kubernetes/config", map[string]any{"kubernetes_host": "https://elsewhere.example", "disable_local_ca_jwt": true})
	t.Log(a.WaitSaid("auth/kubernetes", "adopt"))
	if host := v.Read("auth/kubernetes/config")["kubernetes_host"]; host != "https://elsewhere.example" {
		t.Errorf("the host of a config that somebody else wrote became %v", host)
	}
	a.Install(quick + "mount: {adopt: true}")
	a.WaitLogin("app", "app", harness.Audience)
	for _, e := range v.Audit() {
		if e.Role == harness.AuthconfigName && strings.HasPrefix(e.Path, "sys/auth/kubernetes") && e.Operation == "delete" {
			t.Errorf("authconfig asked Vault for %s", e)
		}
	}
}

type mount struct{ typ, accessor, description, maxTTL string }

// mountOf is the mount as `vault auth list -detailed` shows it.
func mountOf(a *harness.Authconfig) mount {
	a.Helper()
	m, ok := a.Vault.Read("sys/auth")[a.Mount+"/"].(map[string]any)
	if !ok {
		return mount{}
	}
	return mount{m["type"].(string), m["accessor"].(string), m["description"].(string), fmt.Sprint(m["config"].(map[string]any)["max_lease_ttl"])}
}

// Roles may choose namespaces by label, and take annotations of ServiceAccounts
// as metadata, where the reviewer may read them.
func TestReviewerReadsWhatRolesNeed(t *testing.T) {
	t.Parallel()
	s := suite.Space(t, "team=shop")
	v := s.OwnVault(false)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app", Annotations: map[string]string{"vault.hashicorp.com/alias-metadata-team": "shop"}}}
	if _, err := s.Kube.CoreV1().ServiceAccounts(s.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	selecting := func(team string) string {
		return `{"bound_service_account_names": "app", "token_policies": "default", "bound_service_account_namespace_selector": {"matchLabels": {"team": "` + team + `"}}}`
	}
	s.SetRoles(map[string]string{"shop": selecting("shop"), "billing": selecting("billing")})
	a := s.Authconfig(v, "reviewer: {aliasMetadata: true, namespaceSelectors: true}")
	a.WaitLogin("shop", "app", harness.Audience)
	if err := a.Login("billing", "app", harness.Audience); err == nil || !strings.Contains(err.Error(), "namespace not authorized") {
		t.Errorf("logging in from a namespace without the role's label: %v", err)
	}
	aliases, err := v.Root.Logical().ListWithContext(t.Context(), "identity/entity-alias/id")
	if err != nil {
		t.Fatal(err)
	}
	var teams []string
	for _, id := range aliases.Data["keys"].([]any) {
		metadata, _ := v.Read("identity/entity-alias/id/" + id.(string))["metadata"].(map[string]any)
		teams = append(teams, fmt.Sprint(metadata["team"]))
	}
	if !slices.Contains(teams, "shop") {
		t.Errorf("the aliases are of teams %q, want the annotation's", teams)
	}
}
