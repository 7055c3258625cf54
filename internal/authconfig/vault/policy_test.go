package vault

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

var update = flag.Bool("update", false, "rewrite deploy/authconfig/policy.hcl")

// What is published is what authconfig policy prints.
func TestPublishedPolicy(t *testing.T) {
	const file = "../../../deploy/authconfig/policy.hcl"
	want := Policy("kubernetes")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s (%v) is\n%swant\n%s(go test -update)", file, err, got, want)
	}
	// setup.sh makes another mount's of it by this replacement.
	if got, want := strings.ReplaceAll(want, "auth/kubernetes", "auth/kubernetes/staging"), Policy("/auth/kubernetes/staging/"); got != want {
		t.Errorf("setup.sh makes\n%swant\n%s", got, want)
	}
}

func TestCheckMount(t *testing.T) {
	for _, good := range []string{"kubernetes", "auth/kubernetes/staging/backend", "/auth/k8s_1.prod/", "a-b"} {
		if err := CheckMount(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "auth/", "a//b", "kubernetes/+", "a*", `a"b`, "../x", "a..b", "a/./b", "a b"} {
		if err := CheckMount(bad); err == nil || !strings.Contains(err.Error(), "is not a path (letters, digits") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// The policy is of the login's namespace, and the paths in it are as that one
// sees them.
func TestPolicyOfAnotherNamespace(t *testing.T) {
	for _, c := range []struct{ mount, login, want string }{
		{"", "", ""}, {"team", "", ""}, {"team/a", "team", "a/"}, {"team/a/b", "/team/", "a/b/"}, {"team/a", "root", "team/a/"}, {"teams", "team", ""},
	} {
		f, client := start(t, func(v *config.Vault) { v.Namespace, v.Auth.Namespace = c.mount, c.login })
		f.deny = func(path string) bool { return path == "sys/auth" }
		_, err := client.read(t.Context(), "sys/auth")
		f.wantError(err, `path "`+c.want+`sys/auth" { capabilities`)
	}
}
