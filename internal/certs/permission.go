package certs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// needs is all that the API server must allow: one Secret and one webhook
// configuration, each by its name.
func (s *selfManaged) needs() []authorizationv1.ResourceAttributes {
	var all []authorizationv1.ResourceAttributes
	for _, verb := range []string{"create", "get", "list", "watch", "update"} {
		a := authorizationv1.ResourceAttributes{Verb: verb, Resource: "secrets", Namespace: s.Namespace, Name: s.Secret}
		if verb == "create" {
			a.Name = "" // it has no name before it exists
		}
		all = append(all, a)
	}
	for _, verb := range []string{"get", "list", "watch", "patch"} {
		all = append(all, authorizationv1.ResourceAttributes{Verb: verb, Group: "admissionregistration.k8s.io",
			Resource: "mutatingwebhookconfigurations", Name: s.WebhookConfiguration})
	}
	return all
}

// awaitPermission says at the start what is not allowed, all at once: later it
// would show as one strange failure after the other. It waits for the right to
// read, and for an API server that answers. The error is that of ctx.
func (s *selfManaged) awaitPermission(ctx context.Context, wake func()) error {
	for !s.ask(ctx) {
		wake()
		timer := time.NewTimer(soon)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
	return nil
}

// ask notes what is not allowed. It returns false if CA and bundle may not be
// read, or the API server does not say; who may only not write serves on.
func (s *selfManaged) ask(ctx context.Context) bool {
	lacks, err := s.lacking(ctx)
	if !s.report(ctx, err) {
		return false
	}
	words, mayRead := "", true
	if len(lacks) > 0 {
		words = fmt.Sprintf("the pod's ServiceAccount may not %s (grant it by a Role in namespace %s and a ClusterRole, as the chart does with certs.mode self-managed)",
			strings.Join(lacks, ", "), s.Namespace)
		mayRead = !slices.ContainsFunc(lacks, func(l string) bool {
			verb, _, _ := strings.Cut(l, " ")
			return slices.Contains([]string{"get", "list", "watch"}, verb)
		})
	}
	s.mu.Lock()
	old := s.lacks
	s.lacks = words
	s.mu.Unlock()
	switch {
	case words != "" && words != old:
		s.log.Warn("lacking permission", "problem", words)
	case words == "" && old != "":
		s.log.Info("all that is needed is permitted now")
	}
	return mayRead
}

func (s *selfManaged) isLacking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacks != ""
}

func (s *selfManaged) lacking(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	var lacks []string
	for _, a := range s.needs() {
		r, err := s.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
			&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) {
			return nil, nil // a cluster where nobody may ask; the work itself will tell
		}
		if err != nil {
			return nil, fmt.Errorf("asking the API server for permissions: %w", err)
		}
		if r.Status.Allowed {
			continue
		}
		what := a.Verb + " " + a.Resource
		if a.Name != "" {
			what += fmt.Sprintf(" %q", a.Name)
		}
		lacks = append(lacks, what)
	}
	return slices.Clip(lacks), nil
}
