package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// delegator is the ClusterRole of those who may review tokens.
const delegator = "system:auth-delegator"

// BindingName is the one ClusterRoleBinding of all delegators that the authconfig
// of a namespace makes.
func BindingName(namespace string) string { return "latchkey-authconfig-delegators-" + namespace }

func (c *Client) bindingName() string { return BindingName(c.Namespace) }

func (c *Client) bindingRule(verb string) rule {
	r := rule{verb: verb, group: rbacv1.GroupName, resource: "clusterrolebindings", name: c.bindingName()}
	if verb == "create" {
		r.name = ""
	}
	return r
}

func (p *objectPlan) binding(ctx context.Context, want Objects) error {
	name := p.bindingName()
	if !slices.ContainsFunc(want.Accounts, func(a Account) bool { return a.Delegator }) {
		// One of ours may be left over.
		if ok, err := p.may(ctx, p.bindingRule("get")); err != nil || !ok {
			return err
		}
	}
	found, err := p.getBinding(ctx)
	if err != nil {
		return err
	}
	var before desired.Fields
	subjects := slices.Clone(p.delegators)
	if found != nil {
		before = bindingFields(found.RoleRef, subjectNames(found.Subjects))
		for _, s := range before["subjects"].([]string) {
			if slices.Contains(p.unknown, s) {
				subjects = append(subjects, s)
			}
		}
	}
	slices.Sort(subjects)
	after := bindingFields(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: delegator}, subjects)
	switch {
	case found != nil && !p.isOurs(found):
		if len(subjects) > 0 {
			p.refuse(plan.KindBinding, name, p.notOurs("a ClusterRoleBinding of this name").Error())
		}
	case len(subjects) == 0 && found != nil:
		p.deletions = append(p.deletions, plan.Step{Verb: plan.Delete, Kind: plan.KindBinding, Name: name, Before: before, Why: notListed})
	case len(subjects) == 0:
	case found == nil:
		p.steps = append(p.steps, plan.Step{Verb: plan.Create, Kind: plan.KindBinding, Name: name, After: after})
	case before["role"] != after["role"] || !slices.Equal(before["subjects"].([]string), subjects):
		p.steps = append(p.steps, plan.Step{Verb: plan.Change, Kind: plan.KindBinding, Name: name, Before: before, After: after})
	}
	return nil
}

func bindingFields(role rbacv1.RoleRef, subjects []string) desired.Fields {
	return desired.Fields{"role": role.Kind + " " + role.Name, "subjects": subjects}
}

// subjectNames are ServiceAccounts as namespace/name, and what else somebody put
// there with its kind in front.
func subjectNames(subjects []rbacv1.Subject) []string {
	names := make([]string, 0, len(subjects))
	for _, s := range subjects {
		name := s.Namespace + "/" + s.Name
		if s.Kind != rbacv1.ServiceAccountKind {
			name = s.Kind + " " + s.Name
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func subjectsOf(names []string) []rbacv1.Subject {
	subjects := make([]rbacv1.Subject, 0, len(names))
	for _, n := range names {
		namespace, name, _ := strings.Cut(n, "/")
		subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name})
	}
	return subjects
}

// getBinding is nil where there is none.
func (c *Client) getBinding(ctx context.Context) (*rbacv1.ClusterRoleBinding, error) {
	b, err := c.kube.RbacV1().ClusterRoleBindings().Get(ctx, c.bindingName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading ClusterRoleBinding %s: %w", c.bindingName(), c.bindingRule("get").missing(err))
	}
	return b, nil
}

func (c *Client) applyBinding(ctx context.Context, s plan.Step) error {
	found, err := c.getBinding(ctx)
	if err != nil {
		return err
	}
	if found != nil && !c.isOurs(found) {
		return fmt.Errorf("keeping ClusterRoleBinding %s: %w", s.Name, c.notOurs("it"))
	}
	bindings := c.kube.RbacV1().ClusterRoleBindings()
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: delegator}
	subjects, _ := s.After["subjects"].([]string)
	// The role of a binding cannot be changed.
	if found != nil && (s.Verb == plan.Delete || found.RoleRef != role) {
		err := bindings.Delete(ctx, found.Name, exactly(found.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting ClusterRoleBinding %s: %w", s.Name, c.bindingRule("delete").missing(err))
		}
		found = nil
	}
	switch {
	case s.Verb == plan.Delete:
		return nil
	case found == nil:
		_, err = bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: c.bindingName(), Labels: c.labels()},
			RoleRef:    role, Subjects: subjectsOf(subjects)}, metav1.CreateOptions{})
		err = c.bindingRule("create").missing(mayBind(err))
	default:
		found.Subjects = subjectsOf(subjects)
		_, err = bindings.Update(ctx, found, metav1.UpdateOptions{})
		err = c.bindingRule("update").missing(mayBind(err))
	}
	if err != nil {
		return fmt.Errorf("keeping ClusterRoleBinding %s: %w", s.Name, err)
	}
	return nil
}

// mayBind tells what lets authconfig give away rights that it has not itself.
func mayBind(err error) error {
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "attempting to grant RBAC permissions") {
		return rule{verb: "bind", group: rbacv1.GroupName, resource: "clusterroles", name: delegator}.lacking(err)
	}
	return err
}
