package desired

import (
	"fmt"
	"strings"
	"testing"
)

const fine = `{"bound_service_account_names":["a"],"bound_service_account_namespaces":["a"],"token_policies":["x"]}`

// A role stays as it is while what is asked for it is not understood, but
// nobody can freeze a role that is not theirs.
func TestUntouched(t *testing.T) {
	shop := Source{Namespace: "shop", Name: "roles", RolePrefix: "shop-"}
	cart := Source{Namespace: "cart", Name: "roles"}
	r := Parse([]ConfigMap{
		{Source: shop, Data: map[string]string{"shop-Broken": "{", "cart": fine, "shop-fine": fine, "latchkey-probe": fine}},
		{Source: cart, Data: map[string]string{"cart": fine, "latchkey-probe": fine}},
		{Source: Source{Namespace: "gone", Name: "roles"}, Missing: true},
	}, Defaults{MountType: "kubernetes", Reserved: []string{"latchkey-probe"}})
	for _, c := range []struct {
		name, source string
		want         bool
	}{
		{"shop-broken", "shop/roles", true},
		{"shop-broken", "another/roles", true},
		{"shop-fine", "shop/roles", false},
		{"cart", "cart/roles", false},
		{"cart", "", false},
		{"cart", "shop/roles", true}, // written before the prefix was asked for
		{"latchkey-probe", "", false},
		{"anything", "gone/roles", true},
		{"anything", "shop/roles", false},
	} {
		if got := r.Untouched(c.name, c.source); got != c.want {
			t.Errorf("role %s, last from %q: untouched is %v (%q)", c.name, c.source, got, r.Problems)
		}
	}
	if r.Complete || r.Roles["cart"].Source != "cart/roles" {
		t.Errorf("%+v", r)
	}
}

func TestManyProblemsAreToldShort(t *testing.T) {
	var role strings.Builder
	for i := range 100 {
		fmt.Fprintf(&role, "\"%s%d\": %d\n", strings.Repeat("x", 500), i, i)
	}
	r := Parse([]ConfigMap{{Data: map[string]string{"a": role.String()}}}, Defaults{MountType: "kubernetes"})
	if len(r.Problems) != 21 || r.Problems[20].Text != "and 83 problems more" {
		t.Errorf("%d problems, the last: %s", len(r.Problems), r.Problems[len(r.Problems)-1])
	}
	for _, p := range r.Problems {
		if len(p.Text) > 600 {
			t.Errorf("%d bytes: %s", len(p.Text), p.Text)
		}
	}
}

// Whoever may edit one ConfigMap can fill it, and must not fill the memory of the
// process that keeps everybody's roles.
func TestOneConfigMapCostsOthersLittle(t *testing.T) {
	other := ConfigMap{Source: Source{Namespace: "other", Name: "roles"}, Data: map[string]string{"t1": fine}}
	team := Source{Namespace: "team", Name: "roles"}
	keys, full, wrong := map[string]string{}, map[string]string{}, map[string]string{}
	for i := range maxKeys + 1 {
		keys[fmt.Sprintf("t%x", i)] = "{"
	}
	for i := range 22 {
		wrong["t"] += fmt.Sprintf("%d:\n", i)
	}
	for i := range 256 {
		full[fmt.Sprintf("w%x", i)] = wrong["t"]
	}
	for _, c := range []struct {
		name, says string
		data       map[string]string
		problems   int
		bytes      int // of the texts of problems, at most
	}{
		{"many keys", "has 4097 keys (at most 4096); its roles stay as they are", keys, 1, 100},
		{"a long value", "has 65537 bytes (at most 65536)", map[string]string{"t": fine + strings.Repeat(" ", maxRole+1-len(fine))}, 1, 100},
		{"many problems", "as above", full, 256 * (maxTold + 1), 256 * 2000},
	} {
		r := Parse([]ConfigMap{{Source: team, Data: c.data}, other}, Defaults{MountType: Kubernetes})
		told := 0
		for _, p := range r.Problems {
			told += len(p.Text)
		}
		if last := len(r.Problems) - 1; len(r.Problems) != c.problems || told > c.bytes || !strings.Contains(r.Problems[max(0, last-1)].Text, c.says) {
			t.Errorf("%s: %d problems of %d bytes, such as %s", c.name, len(r.Problems), told, r.Problems[max(0, last-1)])
		}
		if len(r.Roles) != 1 || r.Roles["t1"].Source != "other/roles" {
			t.Errorf("%s: the roles are %v", c.name, r.Roles)
		}
		if !r.Untouched("w1", "team/roles") && c.name != "a long value" || !r.Untouched("t", "team/roles") && c.name != "many problems" {
			t.Errorf("%s: a role of the ConfigMap may be touched", c.name)
		}
	}
}

func TestMatch(t *testing.T) {
	for glob, want := range map[string]map[string]bool{
		"*":      {"": true, "a": true, "*": true, "a*b": true},
		"a":      {"a": true, "": false, "ab": false, "*": false},
		"a*":     {"a": true, "a*": true, "ab": true, "*": false, "b": false, "*a": false},
		"*a":     {"a": true, "ba": true, "b": false, "a*": false},
		"a*a":    {"aa": true, "a": false, "aba": true, "a*a": true, "ab": false},
		"a*b*c":  {"abc": true, "acb": false, "a-b-b-c": true, "ac": false, "a*c": false, "a*b*c": true},
		"a**b":   {"ab": true, "axb": true},
		"":       {"": true, "a": false},
		"*a*a*":  {"a": false, "aa": true, "xaxax": true},
		"ab*bc*": {"abc": false, "abbc": true},
	} {
		for s, want := range want {
			if got := match(glob, s); got != want {
				t.Errorf("%q matches %q: %v", glob, s, got)
			}
		}
	}
}

func TestFieldDocs(t *testing.T) {
	docs := FieldDocs()
	for _, f := range roleFields {
		if f.doc == "" || !strings.HasSuffix(f.doc, ".") || !strings.Contains(docs, "\n| `"+f.name+"` | ") {
			t.Errorf("field %s lacks its documentation", f.name)
		}
	}
	for i, line := range strings.Split(strings.TrimSpace(docs), "\n") {
		if strings.Count(line, "|") != 7 {
			t.Errorf("line %d: %s", i+1, line)
		}
	}
}

// The probe's tokens may do nothing and leave nothing behind.
func TestProbe(t *testing.T) {
	for _, typ := range []string{"kubernetes", "jwt"} {
		f := Probe(Defaults{MountType: typ, Audience: "vault"}, "latchkey", "latchkey-reviewer")
		names, namespaces, _ := bound(f)
		if len(f["token_policies"].([]string)) > 0 || f["token_no_default_policy"] != true || f["token_type"] != "batch" || f["token_ttl"] != int64(60) ||
			fmt.Sprint(names, namespaces) != "[latchkey-reviewer] [latchkey]" || typ == "jwt" && f["role_type"] != "jwt" {
			t.Errorf("%s: %v", typ, f)
		}
		if got := Canonical(typ, answered(t, f)); !Equal(got, f) {
			t.Errorf("%s: %v\nread back\n%v", typ, f, got)
		}
	}
}
