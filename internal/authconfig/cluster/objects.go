package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// Objects are what authconfig is asked to make in the cluster. What is there
// already, made by others, is used as it is: never changed, labelled or deleted.
// What authconfig made is deleted when it is not asked for any more.
type Objects struct {
	Accounts []Account
	// LongLived is the name of a Secret for a token without an end of the
	// ServiceAccount LongLivedFor, both in authconfig's namespace. One that
	// authconfig made goes if LongLivedFor is empty.
	LongLived, LongLivedFor string
}

// Account is a ServiceAccount.
type Account struct {
	Namespace, Name string
	// Delegator binds it to the ClusterRole system:auth-delegator, so that it may
	// review tokens: the reviewer, and in mode client everybody who logs in.
	Delegator bool
}

// String is namespace/name.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// PlanObjects compares them with what is there. Steps that make come before
// steps that delete. What authconfig may not look at is refused, so that all
// else goes on; an error is an API server that does not answer.
func (c *Client) PlanObjects(ctx context.Context, want Objects) ([]plan.Step, []plan.Refusal, error) {
	accounts := unite(want.Accounts)
	p := objectPlan{Client: c}
	for _, a := range accounts {
		if err := p.account(ctx, a); err != nil {
			return nil, nil, err
		}
	}
	for _, look := range []struct {
		kind plan.Kind
		name string
		err  error
	}{
		{plan.KindBinding, p.bindingName(), p.binding(ctx, want)},
		{plan.KindSecret, p.Namespace + "/" + want.LongLived, p.secret(ctx, want)},
		{plan.KindServiceAccount, "all that are not asked for any more", p.strays(ctx, accounts)},
	} {
		if apierrors.IsForbidden(look.err) {
			p.refuse(look.kind, look.name, look.err.Error())
		} else if look.err != nil {
			return nil, nil, look.err
		}
	}
	return append(p.steps, p.deletions...), p.refused, nil
}

// unite sorts accounts and has each once.
func unite(accounts []Account) []Account {
	byName := map[string]Account{}
	for _, a := range accounts {
		a.Delegator = a.Delegator || byName[a.String()].Delegator
		byName[a.String()] = a
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Account) int { return cmp.Compare(a.String(), b.String()) })
}

type objectPlan struct {
	*Client
	steps, deletions []plan.Step
	refused          []plan.Refusal
	// delegators are there or will be; unknown are those that could not be looked
	// for, for which the binding stays as it is.
	delegators, unknown []string
}

func (p *objectPlan) refuse(kind plan.Kind, name, text string) {
	p.refused = append(p.refused, plan.Refusal{Kind: kind, Name: name, Text: text})
}

func (p *objectPlan) account(ctx context.Context, a Account) error {
	if a.Namespace == "" || a.Name == "" || strings.ContainsAny(a.String(), "*?[") {
		p.refuse(plan.KindServiceAccount, a.String(), "that is no name of a ServiceAccount: list each one by its namespace and its name, without globs")
		return nil
	}
	exists, err := p.hasAccount(ctx, a)
	if apierrors.IsForbidden(err) {
		p.refuse(plan.KindServiceAccount, a.String(), err.Error())
		p.unknown = append(p.unknown, a.String())
		return nil
	}
	if err != nil {
		return err
	}
	if !exists {
		if why, err := p.noNamespace(ctx, a.Namespace); why != "" || err != nil {
			if why != "" {
				p.refuse(plan.KindServiceAccount, a.String(), why)
			}
			return err
		}
		p.steps = append(p.steps, plan.Step{Verb: plan.Create, Kind: plan.KindServiceAccount, Name: a.String(), After: desired.Fields{}})
	}
	if a.Delegator {
		p.delegators = append(p.delegators, a.String())
	}
	return nil
}

func (c *Client) hasAccount(ctx context.Context, a Account) (bool, error) {
	_, err := c.kube.CoreV1().ServiceAccounts(a.Namespace).Get(ctx, a.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		err = rule{verb: "get", resource: "serviceaccounts", namespace: a.Namespace}.missing(err)
		return false, fmt.Errorf("reading ServiceAccount %s: %w", a, err)
	}
	return true, nil
}

// noNamespace says why nothing can be made in a namespace; empty if it can be,
// or if that may not be known: then the making will tell.
func (c *Client) noNamespace(ctx context.Context, name string) (string, error) {
	n, err := c.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("there is no namespace %s: make it, or take the account off the list", name), nil
	case apierrors.IsForbidden(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading namespace %s: %w", name, err)
	case n.Status.Phase == corev1.NamespaceTerminating:
		return fmt.Sprintf("namespace %s is being deleted: take the account off the list", name), nil
	}
	return "", nil
}

// strays are accounts that authconfig made and that nobody asks for any more.
func (p *objectPlan) strays(ctx context.Context, wanted []Account) error {
	elsewhere := slices.ContainsFunc(wanted, func(a Account) bool { return a.Namespace != p.Namespace })
	all := rule{verb: "list", resource: "serviceaccounts"}
	own := rule{verb: "list", resource: "serviceaccounts", namespace: p.Namespace}
	look := all
	if !elsewhere {
		// Nobody needs the leave to list what he has not asked for.
		if ok, err := p.may(ctx, all); err != nil {
			return err
		} else if !ok {
			look = own
		}
	}
	if len(wanted) == 0 && look == own {
		if ok, err := p.may(ctx, own); err != nil || !ok {
			return err
		}
	}
	found, err := p.kube.CoreV1().ServiceAccounts(look.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: p.labels()})})
	if err != nil {
		return fmt.Errorf("listing the ServiceAccounts that authconfig made: %w", look.missing(err))
	}
	for _, s := range found.Items {
		a := Account{Namespace: s.Namespace, Name: s.Name}
		if s.DeletionTimestamp == nil && !slices.ContainsFunc(wanted, func(w Account) bool { return w.String() == a.String() }) {
			p.deletions = append(p.deletions, plan.Step{Verb: plan.Delete, Kind: plan.KindServiceAccount, Name: a.String(),
				Before: desired.Fields{}, Why: notListed})
		}
	}
	return nil
}

const notListed = "authconfig made it, and it is not asked for any more"

// may asks whether a right is there, for what is only worth a look if it is.
func (c *Client) may(ctx context.Context, r rule) (bool, error) {
	answer, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: r.verb, Group: r.group, Resource: r.resource, Namespace: r.namespace, Name: r.name}}}, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) {
		return false, nil // a cluster where nobody may ask
	}
	if err != nil {
		return false, fmt.Errorf("asking the API server for permissions: %w", err)
	}
	return answer.Status.Allowed, nil
}

// ApplyObject does a step of PlanObjects.
func (c *Client) ApplyObject(ctx context.Context, s plan.Step) error {
	namespace, name, _ := strings.Cut(s.Name, "/")
	switch s.Kind {
	case plan.KindServiceAccount:
		if s.Verb == plan.Delete {
			return c.deleteAccount(ctx, Account{Namespace: namespace, Name: name})
		}
		return c.createAccount(ctx, Account{Namespace: namespace, Name: name})
	case plan.KindBinding:
		return c.applyBinding(ctx, s)
	case plan.KindSecret:
		return c.applyLongLived(ctx, s)
	}
	return fmt.Errorf("applying a step in the cluster: %s %s is none", s.Verb, s.Kind)
}

func (c *Client) createAccount(ctx context.Context, a Account) error {
	_, err := c.kube.CoreV1().ServiceAccounts(a.Namespace).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: a.Name, Namespace: a.Namespace, Labels: c.labels()}}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil // somebody else's is as good
	}
	return fmt.Errorf("making ServiceAccount %s: %w", a, rule{verb: "create", resource: "serviceaccounts", namespace: a.Namespace}.missing(err))
}

func (c *Client) deleteAccount(ctx context.Context, a Account) error {
	accounts := c.kube.CoreV1().ServiceAccounts(a.Namespace)
	found, err := accounts.Get(ctx, a.Name, metav1.GetOptions{})
	switch {
	case err == nil && !c.isOurs(found):
		err = c.notOurs("it")
	case err == nil:
		err = accounts.Delete(ctx, a.Name, exactly(found.UID))
	}
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	for _, verb := range []string{"get", "delete"} {
		err = rule{verb: verb, resource: "serviceaccounts", namespace: a.Namespace}.missing(err)
	}
	return fmt.Errorf("deleting ServiceAccount %s: %w", a, err)
}
