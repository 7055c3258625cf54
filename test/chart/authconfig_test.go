package chart

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/latchkey-dev/latchkey/internal/authconfig"
)

// TestNothingOfAuthconfigUnlessAsked reads what the chart's own values make.
func TestNothingOfAuthconfigUnlessAsked(t *testing.T) {
	t.Parallel()
	for _, c := range cases(t) {
		if c.Refused() || strings.HasPrefix(c.Name, "authconfig") {
			continue
		}
		if strings.Contains(strings.Join(rendered(t, c), ""), "authconfig") {
			t.Errorf("%s: mentions authconfig, which is off", c.Name)
		}
	}
}

// TestAuthconfigMayDoLittle looks at every right that a case gives to authconfig:
// but for making things, it names the objects.
func TestAuthconfigMayDoLittle(t *testing.T) {
	t.Parallel()
	// A create cannot be bound to a name, and an Event's is made up.
	unnamed := map[string]bool{
		"create configmaps": true, "create leases": true, "create secrets": true, "create clusterrolebindings": true,
		"create events": true, "patch events": true,
	}
	// Those that it made it finds by a label.
	makes := map[string]string{"authconfig-kubernetes": "ClusterRole", "authconfig-client": "ClusterRole", "authconfig-creates": "Role"}
	var seen int
	for _, c := range authconfigCases(t) {
		for _, object := range rendered(t, c) {
			var role rbacv1.ClusterRole
			if err := yaml.Unmarshal([]byte(object), &role); err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			clusterWide := role.Kind == "ClusterRole"
			if role.Kind != "Role" && !clusterWide || !strings.HasPrefix(role.Name, "latchkey-authconfig") || strings.HasSuffix(role.Name, ".reviewer-reads") {
				continue
			}
			seen++
			for _, rule := range role.Rules {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						at := c.Name + ": " + role.Kind + " " + role.Name + ": " + verb + " " + resource
						if strings.Contains(verb+resource+strings.Join(rule.APIGroups, ""), "*") {
							t.Errorf("%s: a wildcard", at)
						}
						itsAccounts := resource == "serviceaccounts" && makes[c.Name] != "" && strings.HasSuffix(role.Name, ".objects") &&
							(!clusterWide || makes[c.Name] == "ClusterRole")
						if len(rule.ResourceNames) == 0 && !unnamed[verb+" "+resource] && !itsAccounts {
							t.Errorf("%s: of every name", at)
						}
						if clusterWide && (resource == "secrets" || resource == "configmaps" || resource == "serviceaccounts/token") {
							t.Errorf("%s: in every namespace", at)
						}
					}
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("looked at %d roles, there were at least 10", seen)
	}
}

// TestReviewerRights holds that only the reviewer may ask about tokens, and only
// in the modes in which Vault asks with its token.
func TestReviewerRights(t *testing.T) {
	t.Parallel()
	want := map[string]bool{
		"authconfig": true, "authconfig-alone": true, "authconfig-approle": true, "authconfig-observed": true,
		"authconfig-long-lived": true, "authconfig-client": true,
		// authconfig makes the binding itself.
		"authconfig-kubernetes": false, "authconfig-creates": false,
		"authconfig-local": false, "authconfig-jwt": false,
	}
	for _, c := range authconfigCases(t) {
		delegates, known := want[c.Name]
		if !known {
			t.Errorf("%s: say here whether its reviewer reviews", c.Name)
		}
		var found []string
		for _, object := range rendered(t, c) {
			var binding rbacv1.ClusterRoleBinding
			if err := yaml.Unmarshal([]byte(object), &binding); err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			if binding.RoleRef.Name == "system:auth-delegator" {
				for _, s := range binding.Subjects {
					found = append(found, s.Kind+" "+s.Namespace+"/"+s.Name)
				}
			}
		}
		account := "ServiceAccount latchkey/latchkey-reviewer"
		if c.Name == "authconfig-alone" {
			account = "ServiceAccount latchkey/vault-reviewer"
		}
		if delegates && !slices.Equal(found, []string{account}) || !delegates && found != nil {
			t.Errorf("%s: %q may review tokens, want the reviewer: %t", c.Name, found, delegates)
		}
	}
}

// TestRolesAreRead gives what the chart makes of the value roles to whom reads a
// ConfigMap.
func TestRolesAreRead(t *testing.T) {
	t.Parallel()
	for _, object := range rendered(t, Case{"authconfig", filepath.Join("testdata", "authconfig")}) {
		var m corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(object), &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind != "ConfigMap" || m.Name != "vault-auth-roles" {
			continue
		}
		for name, want := range map[string]string{"DefaultPolicyForPod": "default", "shop": "shop"} {
			var role map[string]any
			if err := yaml.Unmarshal([]byte(m.Data[name]), &role); err != nil {
				t.Errorf("role %s: %v", name, err)
			}
			namespaces := role["bound_service_account_namespaces"]
			if list, ok := namespaces.([]any); ok {
				namespaces = list[0]
			}
			if namespaces != want {
				t.Errorf("role %s is for namespace %v, want %s", name, namespaces, want)
			}
		}
		return
	}
	t.Error("there is no ConfigMap vault-auth-roles")
}

// rendered are the objects of a case.
func rendered(t *testing.T, c Case) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Dir, "want.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n---\n")
}

// TestDefaultSource reads the roles of those who name no ConfigMap.
func TestDefaultSource(t *testing.T) {
	t.Parallel()
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte("authconfig: {enabled: true}"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := render(t, Case{Dir: t.TempDir()}, values)
	if err != nil {
		t.Fatal(err)
	}
	read := readFile(t, strings.Split(text, "\n---\n"))
	if len(read.Sources) != 1 || read.Sources[0].String() != "vault-auth/vault-auth-roles" {
		t.Errorf("its sources are %v, want vault-auth/vault-auth-roles", read.Sources)
	}
}

// TestAuthconfigTakesItsFile has authconfig read the files that the chart makes.
func TestAuthconfigTakesItsFile(t *testing.T) {
	t.Parallel()
	// Its login, the mount that it keeps, in which Vault and namespace, for which API
	// server, the mode of the reviewer, the roles' audience and their sources.
	want := map[string]string{
		"authconfig":            "jwt jwt kubernetes/staging/backend https://vault.example.org:8200 logins https://kubernetes.default.svc short-lived vault.example.org latchkey/vault-auth-roles",
		"authconfig-alone":      "jwt jwt kubernetes/production/shop https://vault.example.org platform https://production.example.org:6443 short-lived vault.example.org default/roles kube-public/roles",
		"authconfig-approle":    "approle approle/platform kubernetes http://vault.vault:8200 https://kubernetes.default.svc short-lived vault latchkey/vault-auth-roles",
		"authconfig-client":     "jwt jwt kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc client latchkey/vault-auth-roles",
		"authconfig-creates":    "jwt jwt kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc long-lived vault latchkey/vault-auth-roles",
		"authconfig-jwt":        "jwt jwt cluster https://vault.vault.svc:8200 https://kubernetes.default.svc jwt vault latchkey/vault-auth-roles",
		"authconfig-kubernetes": "kubernetes kubernetes/platform kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc short-lived vault default/roles",
		"authconfig-local":      "jwt jwt kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc local vault latchkey/vault-auth-roles",
		"authconfig-long-lived": "token kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc long-lived vault latchkey/vault-auth-roles",
		"authconfig-observed":   "jwt jwt kubernetes https://vault.vault.svc:8200 https://kubernetes.default.svc short-lived vault latchkey/vault-auth-roles",
	}
	for _, c := range authconfigCases(t) {
		read := readFile(t, rendered(t, c))
		facts := []string{read.Vault.Auth.Method, read.Vault.Auth.Mount, read.Mount.Path, read.Vault.Address, read.Vault.Namespace,
			read.Kubernetes.Host, read.Reviewer.Mode, read.Audience}
		for _, s := range read.Sources {
			facts = append(facts, s.String())
		}
		got := strings.Join(strings.Fields(strings.Join(facts, " ")), " ")
		if got != want[c.Name] {
			t.Errorf("%s: authconfig reads\n%s, want\n%s", c.Name, got, want[c.Name])
		}
	}
}

// readFile is what authconfig reads from the file that is among the objects.
func readFile(t *testing.T, objects []string) *authconfig.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	for _, object := range objects {
		var m corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(object), &m); err != nil {
			t.Fatal(err)
		}
		if m.Kind == "ConfigMap" && m.Name == "latchkey-authconfig-config" {
			if err := os.WriteFile(file, []byte(m.Data["config.yaml"]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	read, _, err := authconfig.Load([]string{"--config", file}, func(string) string { return "" }, func(c *authconfig.Config) (*flag.FlagSet, *string) {
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		c.Bind(flags)
		return flags, flags.String("config", "", "")
	})
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// authconfigCases are those that authconfig is in.
func authconfigCases(t *testing.T) (with []Case) {
	t.Helper()
	for _, c := range cases(t) {
		if !c.Refused() && strings.HasPrefix(c.Name, "authconfig") {
			with = append(with, c)
		}
	}
	return with
}
