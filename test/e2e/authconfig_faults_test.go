package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/cluster/faultproxy"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// Vault is away, answers that it is sealed, takes away authconfig's token, and
// then a part of its policy: authconfig says what it is, stays alive, and goes on
// by itself with what was asked for meanwhile.
func TestAuthconfigOutlivesFaultsOfVault(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	app := s.RoleFor("app", nil)
	s.SetRoles(map[string]string{"app": app})
	proxy := proxyTo(t, cluster.NodeIP+":0", v.Root.Address(), suite.CA())
	a := s.Authconfig(v, quick+"vault: {address: 'https://"+proxy.Address()+"'}")
	a.WaitLogin("app", "app", harness.Audience)
	pod := a.Leader()

	want := []string{"app"}
	asked := func(name string, fault func(), says ...string) {
		t.Log(name)
		before := a.OwnRoles()
		fault()
		s.SetRoles(rolesNamed(app, append(want, name)...))
		t.Log(a.WaitSaid(says...))
		if got := a.OwnRoles(); !slices.Equal(got, before) {
			t.Errorf("during the fault the roles are %q, want %q", got, before)
		}
		want = append(want, name)
	}
	set := func(m faultproxy.Mode) func() {
		return func() {
			if err := proxy.Set(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	asked("b-away", set(faultproxy.Mode{Fault: "refuse"}), "keeping the mount", "connection refused")
	asked("c-sealed", set(faultproxy.Mode{Fault: "status", Status: http.StatusServiceUnavailable}), "keeping the mount", "(503)")
	set(faultproxy.Mode{})()
	a.WaitRoles(want...)

	t.Log("the token is revoked")
	revokeOwn(t, a)
	want = append(want, "d-revoked")
	s.SetRoles(rolesNamed(app, want...))
	a.WaitRoles(want...)

	policy := fmt.Sprint(v.Read("sys/policies/acl/" + harness.AuthconfigName)["policy"])
	asked("e-forbidden", func() {
		v.Policy(harness.AuthconfigName, strings.Replace(policy, `"auth/kubernetes/role/+"`, `"auth/kubernetes/nothing"`, 1))
	}, "auth/kubernetes/role/", "capabilities")
	v.Policy(harness.AuthconfigName, policy)
	a.WaitRoles(want...)

	now, err := s.Kube.CoreV1().Pods(s.Name).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if restarts := now.Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("authconfig was restarted %d times", restarts)
	}
}

// rolesNamed are roles of one content.
func rolesNamed(content string, names ...string) map[string]string {
	roles := map[string]string{}
	for _, n := range names {
		roles[n] = content
	}
	return roles
}

// revokeOwn revokes all tokens that authconfig has logged in for.
func revokeOwn(t *testing.T, a *harness.Authconfig) {
	t.Helper()
	answer, err := a.Vault.Root.Logical().ListWithContext(t.Context(), "auth/token/accessors")
	if err != nil {
		t.Fatal(err)
	}
	revoked := 0
	for _, accessor := range answer.Data["keys"].([]any) {
		token, err := a.Vault.Root.Auth().Token().LookupAccessorWithContext(t.Context(), accessor.(string))
		if err != nil || !strings.HasPrefix(fmt.Sprint(token.Data["path"]), "auth/"+harness.LoginMount) {
			continue
		}
		if err := a.Vault.Root.Auth().Token().RevokeAccessorWithContext(t.Context(), accessor.(string)); err != nil {
			t.Fatal(err)
		}
		revoked++
	}
	if revoked == 0 {
		t.Fatal("authconfig has no token")
	}
}

// A Vault whose certificate another authority has signed is told nothing.
func TestAuthconfigVerifiesVault(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.SetRoles(nil)
	foreign := "vault:\n  ca: |\n" + indent(4, string(foreignCA()))
	a := s.Authconfig(v, foreign)
	t.Log(a.WaitSaid("certificate", v.Address))
	for _, e := range v.Audit() {
		if e.Display != "root" {
			t.Errorf("Vault was asked for %s", e)
		}
	}
	a.Install("")
	s.Eventually("the mount", func() error {
		if mountOf(a).typ == "" {
			return fmt.Errorf("there is none:\n%s", a.Said())
		}
		return nil
	})
}

// The kill switch: without its Secret the reviewer's token is worthless at once,
// and authconfig makes another one by itself.
func TestDeletedReviewerSecretIsReplaced(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	a := s.Authconfig(v, "")
	a.WaitLogin("app", "app", harness.Audience)

	twins := newTwins(a)
	name := twins.look()
	if err := s.Kube.CoreV1().Secrets(s.Name).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	poll(t, "the token to die", func() bool { return twins.alive() == 0 })
	t.Logf("the token was dead after %s", time.Since(deleted).Round(100*time.Millisecond))
	poll(t, "a token that is bound to another Secret", func() bool { twins.look(); return twins.seen() == 2 })
	a.WaitLogin("app", "app", harness.Audience)
	t.Logf("logins went on with another token after %s", time.Since(deleted).Round(100*time.Millisecond))
}

// The token of a Secret is followed: deleted, it is worthless, which authconfig
// says; made anew, it gives Vault the new one.
func TestLongLivedReviewerSecretIsFollowed(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	a := s.Authconfig(v, "reviewer: {mode: long-lived}")
	a.WaitLogin("app", "app", harness.Audience)
	secrets := s.Kube.CoreV1().Secrets(s.Name)
	const name = harness.ReviewerName + "-token"
	if err := secrets.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log(a.WaitSaid("ERROR", name))
	poll(t, "logins to be refused", func() bool { return a.Login("app", "app", harness.Audience) != nil })
	anew := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: harness.ReviewerName}},
		Type: corev1.SecretTypeServiceAccountToken}
	if _, err := secrets.Create(t.Context(), anew, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.WaitLogin("app", "app", harness.Audience)
}

// From a laptop, with a kubeconfig and a token in a file, nothing is hidden: plan
// says what it would do, apply does it once, and then there is nothing to do.
func TestAuthconfigFromALaptop(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	published, err := os.ReadFile(filepath.Join(harness.Checkout(), "deploy", "authconfig", "policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	v.Policy(harness.AuthconfigName, string(published))
	token, err := v.Root.Auth().Token().CreateOrphanWithContext(t.Context(), tokenOf(harness.AuthconfigName))
	if err != nil {
		t.Fatal(err)
	}
	s.Keep("authconfig's token", token.Auth.ClientToken)
	dir := t.TempDir()
	config := fmt.Sprintf(`
vault:
  caFile: %[1]s/ca.crt
  auth: {method: token, tokenPath: %[1]s/token}
reviewer: {create: true}
sources: [{namespace: %[2]s, name: vault-auth-roles}]
`, dir, s.Name)
	for name, content := range map[string]string{"config.yaml": config, "token": token.Auth.ClientToken, "ca.crt": string(suite.CA())} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(command string, more ...string) (string, int) {
		t.Helper()
		args := append([]string{command, "--config=" + dir + "/config.yaml", "--namespace=" + s.Name}, more...)
		out, code := authconfig(t, []string{"VAULT_ADDR=" + v.Root.Address(), "KUBECONFIG=" + suite.Kubeconfig}, args...)
		t.Logf("authconfig %s: exit %d\n%s", command, code, out)
		for _, found := range suite.Secrets.In(out) {
			t.Errorf("authconfig %s printed a secret: %s", command, found)
		}
		return out, code
	}
	before := len(v.Audit())
	if out, code := run("plan"); code != 2 || !strings.Contains(out, "app") {
		t.Errorf("plan ended with %d, want 2", code)
	}
	for _, e := range v.Audit()[before:] {
		if e.Operation != "read" && e.Operation != "list" {
			t.Errorf("plan asked Vault for %s", e)
		}
	}
	if _, code := run("apply"); code != 0 {
		t.Fatalf("apply ended with %d, want 0", code)
	}
	if _, err := v.Login(t.Context(), "kubernetes", "app", s.Token("app", harness.Audience)); err != nil {
		t.Errorf("logging in after apply: %v", err)
	}
	if _, code := run("plan"); code != 0 {
		t.Errorf("plan after apply ended with %d, want 0", code)
	}
	jwt := s.Token("app", harness.Audience)
	if err := os.WriteFile(filepath.Join(dir, "jwt"), []byte(jwt), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := authconfig(t, nil, "claims", filepath.Join(dir, "jwt"))
	if want := "system:serviceaccount:" + s.Name + ":app"; code != 0 || !strings.Contains(out, want) || len(suite.Secrets.In(out)) > 0 {
		t.Errorf("claims ended with %d and printed\n%s\nwant %s, and no token", code, out, want)
	}
	// A flag wins over the variable, and the variable over the file.
	if out, code := run("plan", "--vault-addr=https://elsewhere.invalid:8200"); code != 1 || !strings.Contains(out, "elsewhere.invalid") {
		t.Errorf("plan for a Vault that is not there ended with %d, want 1", code)
	}
}

// With an AppRole, whose IDs lie in a Secret: authconfig names the one that is
// missing, and goes on when it is there.
func TestAuthconfigLogsInWithAnAppRole(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", nil)})
	v.Write("sys/auth/approle", map[string]any{"type": "approle"})
	v.Write("auth/approle/role/authconfig", map[string]any{"token_policies": harness.AuthconfigName, "token_ttl": "30m"})
	roleID := v.Read("auth/approle/role/authconfig/role-id")["role_id"].(string)
	answer, err := v.Root.Logical().WriteWithContext(t.Context(), "auth/approle/role/authconfig/secret-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	secretID := answer.Data["secret_id"].(string)
	s.Keep("a role ID", roleID)
	s.Keep("a secret ID", secretID)
	secrets := s.Kube.CoreV1().Secrets(s.Name)
	ids := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "vault-login"}, StringData: map[string]string{"role-id": roleID}}
	if _, err := secrets.Create(t.Context(), ids, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a := s.Authconfig(v, "auth: {method: approle, mount: approle, secret: {name: vault-login}}")
	t.Log(a.WaitSaid("secret-id", "no such file"))

	ids.StringData["secret-id"] = secretID
	if _, err := secrets.Update(t.Context(), ids, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	hasten(s, a.Leader().Name, "logged in", func(*corev1.Pod) bool { return a.Login("app", "app", harness.Audience) == nil })
}
