package cluster

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// Secret implements API.
func (c *Client) Secret(ctx context.Context, name string, fresh bool) (Secret, error) {
	found, err := c.ourSecret(ctx, name)
	if err != nil {
		return Secret{}, err
	}
	if found != nil && found.DeletionTimestamp != nil {
		return Secret{}, fmt.Errorf("making Secret %s/%s: the one that is there is being deleted and waits for its finalizers (%s)",
			c.Namespace, name, strings.Join(found.Finalizers, ", "))
	}
	if found != nil && !fresh {
		return secretOf(found), nil
	}
	if found != nil {
		if err := c.deleteSecret(ctx, name, found.UID); err != nil {
			return Secret{}, err
		}
	}
	made, err := c.createSecret(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeOpaque})
	if err != nil {
		return Secret{}, err
	}
	return secretOf(made), nil
}

// FindSecret implements API.
func (c *Client) FindSecret(ctx context.Context, name string) (*Secret, sealed.Value[string], error) {
	found, err := c.getSecret(ctx, name)
	if err != nil || found == nil || found.DeletionTimestamp != nil {
		return nil, sealed.Value[string]{}, err
	}
	s := secretOf(found)
	var token sealed.Value[string]
	if found.Type == corev1.SecretTypeServiceAccountToken {
		token = sealed.Of(string(found.Data[corev1.ServiceAccountTokenKey]))
	}
	return &s, token, nil
}

// DeleteSecret implements API. One that is gone already is no error, nor is
// another that has taken its name.
func (c *Client) DeleteSecret(ctx context.Context, s Secret) error {
	found, err := c.getSecret(ctx, s.Name)
	if err != nil || found == nil || string(found.UID) != s.UID {
		return err
	}
	if !c.isOurs(found) {
		return fmt.Errorf("deleting a Secret: %w", c.notOurs("Secret "+c.Namespace+"/"+s.Name))
	}
	return c.deleteSecret(ctx, s.Name, found.UID)
}

func secretOf(s *corev1.Secret) Secret {
	return Secret{Name: s.Name, UID: string(s.UID), Version: s.ResourceVersion,
		Type: string(s.Type), Account: s.Annotations[corev1.ServiceAccountNameKey]}
}

// ourSecret is nil where there is none, and an error where it is not ours.
func (c *Client) ourSecret(ctx context.Context, name string) (*corev1.Secret, error) {
	found, err := c.getSecret(ctx, name)
	if err == nil && found != nil && !c.isOurs(found) {
		return nil, fmt.Errorf("making a Secret: %w", c.notOurs("Secret "+c.Namespace+"/"+name))
	}
	return found, err
}

// getSecret is nil where there is none.
func (c *Client) getSecret(ctx context.Context, name string) (*corev1.Secret, error) {
	s, err := c.kube.CoreV1().Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		err = rule{verb: "get", resource: "secrets", namespace: c.Namespace, name: name}.missing(err)
		return nil, fmt.Errorf("reading Secret %s/%s: %w", c.Namespace, name, err)
	}
	return s, nil
}

func (c *Client) createSecret(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	s.Namespace, s.Labels = c.Namespace, c.labels()
	made, err := c.kube.CoreV1().Secrets(c.Namespace).Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		err = rule{verb: "create", resource: "secrets", namespace: c.Namespace}.missing(err)
		return nil, fmt.Errorf("making Secret %s/%s: %w", c.Namespace, s.Name, err)
	}
	return made, nil
}

func (c *Client) deleteSecret(ctx context.Context, name string, uid types.UID) error {
	err := c.kube.CoreV1().Secrets(c.Namespace).Delete(ctx, name, exactly(uid))
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // a conflict is another Secret of the name
	}
	err = rule{verb: "delete", resource: "secrets", namespace: c.Namespace, name: name}.missing(err)
	return fmt.Errorf("deleting Secret %s/%s: %w", c.Namespace, name, err)
}
