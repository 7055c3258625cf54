package cluster

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

func (p *objectPlan) secret(ctx context.Context, want Objects) error {
	if want.LongLived == "" {
		return nil
	}
	if want.LongLivedFor == "" {
		// A token without end must not outlive its use.
		if ok, err := p.may(ctx, rule{verb: "delete", resource: "secrets", namespace: p.Namespace, name: want.LongLived}); err != nil || !ok {
			return err
		}
	}
	found, err := p.getSecret(ctx, want.LongLived)
	if err != nil || found != nil && (found.DeletionTimestamp != nil || !p.isOurs(found)) {
		return err
	}
	step := plan.Step{Kind: plan.KindSecret, Name: p.Namespace + "/" + want.LongLived}
	if found != nil {
		step.Before = longLivedFields(found.Annotations[corev1.ServiceAccountNameKey])
	}
	if want.LongLivedFor != "" {
		step.After = longLivedFields(want.LongLivedFor)
	}
	switch {
	case found == nil && step.After != nil:
		step.Verb = plan.Create
	case found != nil && step.After == nil:
		step.Verb, step.Why = plan.Delete, notListed
		p.deletions = append(p.deletions, step)
		return nil
	case found != nil && step.Before["service_account"] != step.After["service_account"]:
		step.Verb = plan.Change
	default:
		return nil
	}
	p.steps = append(p.steps, step)
	return nil
}

func longLivedFields(account string) desired.Fields {
	return desired.Fields{"type": string(corev1.SecretTypeServiceAccountToken), "service_account": account}
}

func (c *Client) applyLongLived(ctx context.Context, s plan.Step) error {
	_, name, _ := strings.Cut(s.Name, "/")
	if s.Verb != plan.Create {
		found, err := c.ourSecret(ctx, name)
		if err != nil {
			return err
		}
		if found != nil {
			if err := c.deleteSecret(ctx, name, found.UID); err != nil {
				return err
			}
		}
	}
	if s.Verb == plan.Delete {
		return nil
	}
	account, _ := s.After["service_account"].(string)
	_, err := c.createSecret(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
		Type:       corev1.SecretTypeServiceAccountToken})
	return err
}
