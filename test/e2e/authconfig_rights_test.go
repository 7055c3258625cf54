package e2e

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// What authconfig may do in its own namespace and in another one, beyond what
// everybody may, is no more than it needs: no Secret but its own two, above all.
func TestAuthconfigRights(t *testing.T) {
	t.Parallel()
	s, other := suite.Space(t), suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("nobody")
	s.SetRoles(nil)
	s.Authconfig(v, "")
	own := func(namespace string) (more []string) {
		everybody := rights(t, namespace, s.Name+":nobody")
		for _, r := range rights(t, namespace, s.Name+":"+harness.AuthconfigName) {
			if !slices.Contains(everybody, r) {
				more = append(more, r)
			}
		}
		return more
	}
	if more := own(other.Name); len(more) != 0 {
		t.Errorf("in another namespace it may\n  %s", strings.Join(more, "\n  "))
	}
	// `create` cannot be limited to names.
	want := []string{
		"configmaps [] [] [create]",
		"configmaps [] [kube-root-ca.crt] [get list watch]",
		"configmaps [] [latchkey-authconfig] [get update]",
		"configmaps [] [vault-auth-roles] [get list watch]",
		"events [] [] [create patch]",
		"leases.coordination.k8s.io [] [] [create]",
		"leases.coordination.k8s.io [] [latchkey-authconfig] [get update]",
		"secrets [] [] [create]",
		"secrets [] [latchkey-reviewer-a] [get list watch delete]",
		"secrets [] [latchkey-reviewer-b] [get list watch delete]",
		"serviceaccounts [] [latchkey-reviewer] [list watch]",
		"serviceaccounts/token [] [latchkey-reviewer] [create]",
	}
	if here := own(s.Name); !slices.Equal(here, want) {
		t.Errorf("it may\n  %s\nwant\n  %s", strings.Join(here, "\n  "), strings.Join(want, "\n  "))
	}
	for _, args := range [][]string{{"get", "secrets", "-A"}, {"list", "secrets"}, {"create", "serviceaccounts"}, {"create", "clusterrolebindings"}} {
		out, _, _ := s.KubectlOutput("", append([]string{"auth", "can-i", "--as=system:serviceaccount:" + s.Name + ":" + harness.AuthconfigName}, args...)...)
		if strings.TrimSpace(out) != "no" {
			t.Errorf("may it %s? %q", strings.Join(args, " "), out)
		}
	}
}

// ServiceAccounts and the reviewer's binding are made when that is asked for, put
// back when somebody edits them, and go when they are no longer listed. What
// others made is used and stays.
func TestAuthconfigMakesServiceAccounts(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("by-hand")
	s.SetRoles(map[string]string{
		"app":  s.RoleFor("app", nil),
		"wild": s.RoleFor("app", map[string]any{"bound_service_account_names": []string{"app-*", "app"}}),
	})
	accounts := func(names ...string) string {
		var list []string
		for _, n := range names {
			list = append(list, "{namespace: "+s.Name+", name: "+n+", delegator: true}")
		}
		return quick + "reviewer: {mode: client, create: true}\nserviceAccounts: [" + strings.Join(list, ", ") + "]\n"
	}
	has := func(name string) bool {
		_, err := s.Kube.CoreV1().ServiceAccounts(s.Name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	a := s.Authconfig(v, accounts("app", "by-hand"))
	poll(t, "ServiceAccount app", func() bool { return has("app") })
	a.WaitLogin("app", "app", "")
	accountsHere, err := s.Kube.CoreV1().ServiceAccounts(s.Name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	for _, account := range accountsHere.Items {
		if account.Labels["app.kubernetes.io/managed-by"] == harness.AuthconfigName {
			made = append(made, account.Name)
		}
	}
	// Neither the one that somebody made, nor one for the pattern in a role.
	if want := []string{"app", harness.ReviewerName}; !slices.Equal(made, want) {
		t.Errorf("it has made the ServiceAccounts %q, want %q", made, want)
	}

	reviews := func(account string) string {
		out, _, _ := s.KubectlOutput("", "auth", "can-i", "create", "tokenreviews", "--as=system:serviceaccount:"+s.Name+":"+account)
		return strings.TrimSpace(out)
	}
	for _, account := range []string{harness.ReviewerName, "app", "by-hand"} {
		if reviews(account) != "yes" {
			t.Errorf("%s may not have tokens reviewed", account)
		}
	}

	t.Log("the binding's subject is edited")
	bindings := s.Kube.RbacV1().ClusterRoleBindings()
	list, err := bindings.List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=" + harness.AuthconfigName})
	if err != nil {
		t.Fatal(err)
	}
	subjects := func(b *rbacv1.ClusterRoleBinding) (names []string) {
		for _, subject := range b.Subjects {
			if subject.Namespace == s.Name {
				names = append(names, subject.Name)
			}
		}
		slices.Sort(names)
		return names
	}
	name, want := "", []string{"app", "by-hand", harness.ReviewerName}
	for _, b := range list.Items {
		if slices.Equal(subjects(&b), want) {
			name = b.Name
			b.Subjects[0].Name = "somebody"
			if _, err := bindings.Update(t.Context(), &b, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if name == "" {
		t.Fatalf("no binding of authconfig's has the subjects %q", want)
	}
	poll(t, "the binding to be as it was", func() bool {
		b, err := bindings.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && slices.Equal(subjects(b), want)
	})

	t.Log("none is listed any more")
	a.Install(accounts())
	poll(t, "ServiceAccount app to go", func() bool { return !has("app") })
	if !has("by-hand") {
		t.Error("the ServiceAccount that somebody made is gone")
	}
	poll(t, "the right of by-hand to go", func() bool { return reviews("by-hand") == "no" })
}
