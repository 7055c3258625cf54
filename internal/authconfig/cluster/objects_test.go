package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

const bindingOfLK = "latchkey-authconfig-delegators-lk"

// objectWorld is a cluster with namespaces lk and app, where authconfig has the
// rights to look that are listed as "verb resource namespace"; nil is all.
func objectWorld(t *testing.T, rights []string, objects ...runtime.Object) (*Client, *world) {
	for _, n := range []string{"lk", "app"} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	c, w := newWorld(t, objects...)
	w.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		s := r.Spec.ResourceAttributes
		r.Status.Allowed = rights == nil || slices.Contains(rights, fmt.Sprintf("%s %s %s", s.Verb, s.Resource, s.Namespace))
		return true, r, nil
	})
	return c, w
}

func account(namespace, name string, labels map[string]string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, UID: "old"}}
}

func binding(labels map[string]string, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: bindingOfLK, Labels: labels, UID: "old"},
		RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: role}, Subjects: subjects}
}

func subject(kind, namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: kind, Namespace: namespace, Name: name}
}

// words are steps, as "verb kind name".
func words(steps []plan.Step) []string {
	all := []string{}
	for _, s := range steps {
		all = append(all, fmt.Sprintf("%s %s %s", s.Verb, s.Kind, s.Name))
	}
	return all
}

func refusals(refused []plan.Refusal) []string {
	all := []string{}
	for _, r := range refused {
		all = append(all, fmt.Sprintf("%s %s: %s", r.Kind, r.Name, r.Text))
	}
	return all
}

// keep plans and applies, and checks that the second plan has nothing to do.
func keep(t *testing.T, c *Client, want Objects) ([]string, []string) {
	t.Helper()
	steps, refused, err := c.PlanObjects(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := c.ApplyObject(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	again, _, err := c.PlanObjects(t.Context(), want)
	if err != nil || len(again) > 0 {
		t.Errorf("the second plan is %q, %v", words(again), err)
	}
	return words(steps), refusals(refused)
}

var reviewer = Account{Namespace: "lk", Name: "latchkey-reviewer", Delegator: true}

func TestObjectsAreMadeAndRemoved(t *testing.T) {
	c, w := objectWorld(t, nil, account("app", "theirs", nil), account("lk", "foreign", map[string]string{managedByLabel: managedBy, instanceLabel: "other"}))
	steps, refused := keep(t, c, Objects{LongLived: "token", LongLivedFor: "latchkey-reviewer",
		Accounts: []Account{reviewer, {Namespace: "app", Name: "web", Delegator: true}, {Namespace: "app", Name: "theirs", Delegator: true}, {Namespace: "app", Name: "web"}}})
	if want := []string{"create serviceaccount app/web", "create serviceaccount lk/latchkey-reviewer",
		"create clusterrolebinding " + bindingOfLK, "create secret lk/token"}; !slices.Equal(steps, want) || len(refused) > 0 {
		t.Errorf("steps %q, want %q; refused %q", steps, want, refused)
	}
	b, err := w.RbacV1().ClusterRoleBindings().Get(t.Context(), bindingOfLK, metav1.GetOptions{})
	if err != nil || b.RoleRef.Name != "system:auth-delegator" || !slices.Equal(subjectNames(b.Subjects), []string{"app/theirs", "app/web", "lk/latchkey-reviewer"}) {
		t.Errorf("binding %+v, %v", b, err)
	}
	s, err := w.CoreV1().Secrets("lk").Get(t.Context(), "token", metav1.GetOptions{})
	if err != nil || s.Type != "kubernetes.io/service-account-token" || s.Annotations["kubernetes.io/service-account.name"] != "latchkey-reviewer" {
		t.Errorf("secret %+v, %v", s, err)
	}
	theirs, err := w.CoreV1().ServiceAccounts("app").Get(t.Context(), "theirs", metav1.GetOptions{})
	if err != nil || len(theirs.Labels) > 0 {
		t.Errorf("an account of others is labelled: %v, %v", theirs, err)
	}

	steps, _ = keep(t, c, Objects{LongLived: "token", Accounts: []Account{reviewer}})
	if want := []string{"change clusterrolebinding " + bindingOfLK, "delete secret lk/token", "delete serviceaccount app/web"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	steps, _ = keep(t, c, Objects{LongLived: "token"})
	if want := []string{"delete clusterrolebinding " + bindingOfLK, "delete serviceaccount lk/latchkey-reviewer"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	left, err := w.CoreV1().ServiceAccounts("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 2 {
		t.Errorf("what is not ours: %+v, %v", left, err)
	}
}

func TestHandEditedBindingIsPutBack(t *testing.T) {
	sa := subject("ServiceAccount", "lk", "latchkey-reviewer")
	for name, edited := range map[string]*rbacv1.ClusterRoleBinding{
		"another subject": binding(ours, "system:auth-delegator", sa, subject("User", "", "mallory")),
		"other subject":   binding(ours, "system:auth-delegator", subject("ServiceAccount", "app", "web")),
		"no subject":      binding(ours, "system:auth-delegator"),
		"another role":    binding(ours, "cluster-admin", sa),
	} {
		t.Run(name, func(t *testing.T) {
			c, w := objectWorld(t, nil, account("lk", "latchkey-reviewer", nil), edited)
			steps, _ := keep(t, c, Objects{Accounts: []Account{reviewer}})
			if want := []string{"change clusterrolebinding " + bindingOfLK}; !slices.Equal(steps, want) {
				t.Errorf("steps %q, want %q", steps, want)
			}
			b, err := w.RbacV1().ClusterRoleBindings().Get(t.Context(), bindingOfLK, metav1.GetOptions{})
			if err != nil || b.RoleRef.Name != "system:auth-delegator" || !slices.Equal(subjectNames(b.Subjects), []string{"lk/latchkey-reviewer"}) {
				t.Errorf("binding %+v, %v", b, err)
			}
		})
	}
}

func TestObjectsOfOthersAreLeftAlone(t *testing.T) {
	alien := secret("token", nil)
	c, w := objectWorld(t, nil, account("lk", "latchkey-reviewer", nil), alien, binding(nil, "cluster-admin"))
	want := Objects{LongLived: "token", LongLivedFor: "latchkey-reviewer", Accounts: []Account{reviewer}}
	steps, refused := keep(t, c, want)
	if len(steps) > 0 || len(refused) != 1 || !strings.Contains(refused[0], "clusterrolebinding "+bindingOfLK+": a ClusterRoleBinding of this name was not made by this authconfig") {
		t.Errorf("steps %q, refused %q", steps, refused)
	}
	if steps, refused = keep(t, c, Objects{LongLived: "token"}); len(steps)+len(refused) > 0 {
		t.Errorf("steps %q, refused %q", steps, refused)
	}
	// Nor by a plan that was made before they took the names.
	for _, s := range []plan.Step{
		{Verb: plan.Delete, Kind: plan.KindServiceAccount, Name: "lk/latchkey-reviewer"},
		{Verb: plan.Delete, Kind: plan.KindBinding, Name: bindingOfLK},
		{Verb: plan.Change, Kind: plan.KindBinding, Name: bindingOfLK, After: desired.Fields{"subjects": []string{"a/b"}}},
		{Verb: plan.Delete, Kind: plan.KindSecret, Name: "lk/token"},
	} {
		wantError(t, c.ApplyObject(t.Context(), s), "was not made by this authconfig")
	}
	if len(w.writes()) > 0 {
		t.Errorf("writes %q", w.writes())
	}
}

func TestNoAccountIsMadeOfAGlob(t *testing.T) {
	c, w := objectWorld(t, nil)
	_, refused := keep(t, c, Objects{Accounts: []Account{{Namespace: "app", Name: "*", Delegator: true}, {Namespace: "*", Name: "web"}, {Namespace: "app"}}})
	if len(refused) != 3 || !strings.Contains(refused[0], "serviceaccount */web: that is no name of a ServiceAccount") || len(w.writes()) > 0 {
		t.Errorf("refused %q, writes %q", refused, w.writes())
	}
}

func TestAccountWithoutNamespaceDoesNotHoldUpOthers(t *testing.T) {
	dying := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dying"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	// Whoever makes the namespace could make the account too, and would review tokens.
	c, w := objectWorld(t, nil, dying, binding(ours, "system:auth-delegator", subject("ServiceAccount", "gone", "web")))
	steps, refused := keep(t, c, Objects{Accounts: []Account{{Namespace: "gone", Name: "web", Delegator: true}, {Namespace: "dying", Name: "web"}, reviewer}})
	if want := []string{"create serviceaccount lk/latchkey-reviewer", "change clusterrolebinding " + bindingOfLK}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if want := []string{"serviceaccount dying/web: namespace dying is being deleted: take the account off the list",
		"serviceaccount gone/web: there is no namespace gone: make it, or take the account off the list"}; !slices.Equal(refused, want) {
		t.Errorf("refused %q", refused)
	}
	b, _ := w.RbacV1().ClusterRoleBindings().Get(t.Context(), bindingOfLK, metav1.GetOptions{})
	if got := subjectNames(b.Subjects); !slices.Equal(got, []string{"lk/latchkey-reviewer"}) {
		t.Errorf("subjects %q", got)
	}

	w.forbidden = []string{"get namespaces"}
	steps, refused, err := plans(t, c, Objects{Accounts: []Account{{Namespace: "gone", Name: "web"}}})
	if want := "create serviceaccount gone/web"; err != nil || len(refused) > 0 || steps[0] != want {
		t.Errorf("who may not look for namespaces tries: %q, %q, %v", steps, refused, err)
	}
}

func plans(t *testing.T, c *Client, want Objects) ([]string, []string, error) {
	steps, refused, err := c.PlanObjects(t.Context(), want)
	return words(steps), refusals(refused), err
}

func TestAccountThatMayNotBeLookedForKeepsItsBinding(t *testing.T) {
	c, w := objectWorld(t, nil, binding(ours, "system:auth-delegator", subject("ServiceAccount", "lk", "latchkey-reviewer")))
	w.forbidden = []string{"get serviceaccounts"}
	steps, refused, err := plans(t, c, Objects{Accounts: []Account{reviewer, {Namespace: "lk", Name: "new", Delegator: true}}})
	if err != nil || len(steps) > 0 || len(refused) != 2 {
		t.Fatalf("steps %q, refused %q, %v", steps, refused, err)
	}
	if !strings.Contains(refused[0], "a Role in namespace lk") || !strings.Contains(refused[0], "resources [serviceaccounts], verbs [get]") {
		t.Errorf("refused %q", refused)
	}
}

func TestNothingAskedNothingRefused(t *testing.T) {
	// The least installation: no right to look at anything.
	c, w := objectWorld(t, []string{})
	w.forbidden = []string{"get serviceaccounts", "list serviceaccounts", "get clusterrolebindings", "get secrets"}
	steps, refused, err := plans(t, c, Objects{LongLived: "token"})
	if err != nil || len(steps)+len(refused) > 0 {
		t.Errorf("%q, %q, %v", steps, refused, err)
	}
	for _, a := range w.Actions() {
		if a.GetResource().Resource != "selfsubjectaccessreviews" {
			t.Errorf("a call that is refused: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestOwnNamespaceIsEnoughForTheReviewer(t *testing.T) {
	dying := account("lk", "dying", ours)
	dying.DeletionTimestamp, dying.Finalizers = &metav1.Time{}, []string{"example.com/hold"}
	c, w := objectWorld(t, []string{"list serviceaccounts lk"}, account("lk", "stray", ours), account("app", "stray", ours), dying)
	steps, _, err := plans(t, c, Objects{Accounts: []Account{reviewer}})
	if want := []string{"create serviceaccount lk/latchkey-reviewer", "create clusterrolebinding " + bindingOfLK, "delete serviceaccount lk/stray"}; err != nil || !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q, %v", steps, want, err)
	}
	w.forbidden = []string{"list serviceaccounts"}
	steps, refused, err := plans(t, c, Objects{Accounts: []Account{{Namespace: "app", Name: "web"}}})
	if err != nil || len(steps) != 1 || len(refused) != 1 {
		t.Fatalf("steps %q, refused %q, %v", steps, refused, err)
	}
	wantError(t, errors.New(refused[0]), "listing the ServiceAccounts that authconfig made", "a ClusterRole: ", "resources [serviceaccounts], verbs [list]")
}

func TestWhatMayNotBeLookedAtIsRefusedAndAllElseGoesOn(t *testing.T) {
	want := Objects{LongLived: "token", LongLivedFor: "latchkey-reviewer", Accounts: []Account{reviewer}}
	for resource, says := range map[string]string{
		"clusterrolebindings": "clusterrolebinding " + bindingOfLK + ": reading ClusterRoleBinding",
		"secrets":             "secret lk/token: reading Secret lk/token",
	} {
		c, w := objectWorld(t, nil)
		w.forbidden = []string{"get " + resource}
		steps, refused, err := plans(t, c, want)
		if err != nil || len(steps) != 2 || len(refused) != 1 || !strings.HasPrefix(refused[0], says) || !strings.Contains(refused[0], "verbs [get]") {
			t.Errorf("%s: steps %q, refused %q, %v", resource, steps, refused, err)
		}
		w.react("get", resource, away)
		if _, _, err := plans(t, c, want); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: the API server is away: %v", resource, err)
		}
	}
}

func TestApplyObjectSaysWhatIsMissing(t *testing.T) {
	create := func(kind plan.Kind, name string) plan.Step {
		return plan.Step{Verb: plan.Create, Kind: kind, Name: name, After: desired.Fields{"subjects": []string{"a/b"}}}
	}
	for _, tt := range []struct {
		forbidden string
		step      plan.Step
		want      []string
	}{
		{"create serviceaccounts", create(plan.KindServiceAccount, "app/web"), []string{"making ServiceAccount app/web", "a Role in namespace app", "verbs [create]"}},
		{"delete serviceaccounts", plan.Step{Verb: plan.Delete, Kind: plan.KindServiceAccount, Name: "lk/stray"}, []string{"deleting ServiceAccount lk/stray", "verbs [delete]"}},
		{"create clusterrolebindings", create(plan.KindBinding, bindingOfLK), []string{"keeping ClusterRoleBinding " + bindingOfLK, `apiGroups ["rbac.authorization.k8s.io"], resources [clusterrolebindings], verbs [create]`}},
		{"create secrets", create(plan.KindSecret, "lk/token"), []string{"making Secret lk/token", "verbs [create]"}},
	} {
		c, w := objectWorld(t, nil, account("lk", "stray", ours))
		w.forbidden = []string{tt.forbidden}
		wantError(t, c.ApplyObject(t.Context(), tt.step), tt.want...)
	}

	c, w := objectWorld(t, nil)
	w.react("create", "clusterrolebindings", apierrors.NewForbidden(schema.GroupResource{Resource: "clusterrolebindings"}, bindingOfLK,
		fmt.Errorf(`user "x" is attempting to grant RBAC permissions not currently held`)))
	wantError(t, c.ApplyObject(t.Context(), create(plan.KindBinding, bindingOfLK)),
		`resources [clusterroles], resourceNames [system:auth-delegator], verbs [bind]`)
	wantError(t, c.ApplyObject(t.Context(), create(plan.KindRole, "app")), "create role is none")
}

func TestSecretForAnotherAccountIsMadeAnew(t *testing.T) {
	s := secret("token", ours)
	s.Type, s.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{"kubernetes.io/service-account.name": "former"}
	c, w := objectWorld(t, nil, account("lk", "latchkey-reviewer", nil), s)
	steps, _ := keep(t, c, Objects{LongLived: "token", LongLivedFor: "latchkey-reviewer"})
	if want := []string{"change secret lk/token"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if want := []string{"delete secrets", "create secrets"}; !slices.Equal(w.writes(), want) {
		t.Errorf("writes %q, want %q", w.writes(), want)
	}
}

func TestSecretThatIsBeingDeletedIsNotDeletedAgain(t *testing.T) {
	s := secret("token", ours)
	s.DeletionTimestamp, s.Finalizers = &metav1.Time{}, []string{"example.com/hold"}
	c, _ := objectWorld(t, nil, s)
	if steps, _ := keep(t, c, Objects{LongLived: "token"}); len(steps) > 0 {
		t.Errorf("steps %q", steps)
	}
}
