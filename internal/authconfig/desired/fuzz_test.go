package desired

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Whatever somebody writes into a ConfigMap, its roles keep to what the source
// allows, and a key with a problem gives none.
func FuzzParse(f *testing.F) {
	for _, c := range goldens(f) {
		for _, m := range c.maps {
			for key, value := range m.Data {
				f.Add(key, value, c.defaults.MountType == JWT)
			}
		}
	}
	f.Add("a", `{"bound_service_account_names":["a"],"bound_service_account_namespaces":["shop*-*"],"policies":"shop-\u212a"}`, true)
	source := Source{Namespace: "shop", Name: "roles", AllowedNamespaces: []string{"shop", "shop-*", "*-shop-*"}, AllowedPolicies: []string{"Shop-*", "common"}, RolePrefix: "Shop-"}
	f.Fuzz(func(t *testing.T, key, value string, jwt bool) {
		d := Defaults{MountType: Kubernetes, Audience: "vault", Reserved: []string{"shop-own"}}
		if jwt {
			d.MountType = JWT
		}
		open := ConfigMap{Source: Source{Namespace: "vault-auth", Name: "roles"}, Data: map[string]string{key: value}}
		limited := ConfigMap{Source: source, Data: map[string]string{key: value}}
		for _, m := range []ConfigMap{open, limited} {
			r := Parse([]ConfigMap{m}, d)
			if len(r.Roles)+min(len(r.Problems), 1) != 1 {
				t.Fatalf("%d roles and problems %q", len(r.Roles), r.Problems)
			}
			for _, p := range r.Problems {
				if p.Text == "" || len(p.Text) > 1000 || !strings.HasPrefix(p.Source, m.Namespace) {
					t.Errorf("problem %q", p)
				}
			}
			for name, role := range r.Roles {
				if !r.Complete || len(r.Problems) > 0 || role.Key != key || name != strings.ToLower(key) || r.Untouched(name, role.Source) {
					t.Errorf("role %s: %+v", name, r)
				}
				if got := Canonical(d.MountType, answered(t, role.Fields)); !Equal(got, role.Fields) {
					t.Errorf("%v\nread back\n%v", role.Fields, got)
				}
				wantGuarded(t, role.Fields)
				if !jwt {
					wantSame(t, m.Source, role.Fields, d)
				}
				if m.RolePrefix != "" {
					wantLimited(t, name, role.Fields)
				}
			}
		}
	})
}

// bound are the names and the namespaces of a role, wherever they stand.
func bound(f Fields) (names, namespaces []string, selector string) {
	if claims, ok := f["bound_claims"].(map[string][]string); ok {
		return claims["/kubernetes.io/serviceaccount/name"], claims["/kubernetes.io/namespace"], ""
	}
	return f["bound_service_account_names"].([]string), f["bound_service_account_namespaces"].([]string), f["bound_service_account_namespace_selector"].(string)
}

var onlyStars = regexp.MustCompile(`^\**$`)

// wantGuarded checks what holds for roles of every source.
func wantGuarded(t *testing.T, f Fields) {
	t.Helper()
	names, namespaces, selector := bound(f)
	if len(names) == 0 || slices.ContainsFunc(names, onlyStars.MatchString) {
		t.Errorf("names %q", names)
	}
	if len(namespaces) == 0 && selector == "" {
		t.Error("no namespace")
	}
	policies := f["token_policies"].([]string)
	if len(policies) == 0 || slices.ContainsFunc(policies, func(p string) bool { return strings.EqualFold(strings.TrimSpace(p), "root") }) {
		t.Errorf("policies %q", policies)
	}
	for _, list := range [][]string{names, namespaces, policies} {
		for _, s := range list {
			if strings.ContainsAny(s, ", \t\n\x00") {
				t.Errorf("element %q", s)
			}
		}
	}
}

// wantLimited checks a role of the limited source.
func wantLimited(t *testing.T, name string, f Fields) {
	t.Helper()
	_, namespaces, selector := bound(f)
	allowed := regexp.MustCompile(`^(shop|shop-.*|.*-shop-.*)$`)
	for _, ns := range namespaces {
		for _, run := range []string{"", "x", "kube-system", "-"} {
			if got := strings.ReplaceAll(ns, "*", run); !allowed.MatchString(got) {
				t.Errorf("namespace %q is %q too", ns, got)
			}
		}
	}
	for _, p := range f["token_policies"].([]string) {
		if !regexp.MustCompile(`^(?s:shop-.*|common|default)$`).MatchString(p) {
			t.Errorf("policy %q", p)
		}
	}
	if selector != "" || isSet(f["alias_metadata"]) || !strings.HasPrefix(name, "shop-") || name == "shop-own" {
		t.Errorf("role %s: selector %q, metadata %v", name, selector, f["alias_metadata"])
	}
}

// wantSame checks that a role can be written down again as it was understood.
func wantSame(t *testing.T, src Source, f Fields, d Defaults) {
	t.Helper()
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	again, problems := parseRole(string(data), src, d)
	if len(problems) > 0 || !Equal(again, f) {
		t.Errorf("%v\nread again is\n%v %q", f, again, problems)
	}
}
