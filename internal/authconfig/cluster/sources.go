package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// Sources implements API. A ConfigMap that authconfig may not read counts as
// missing: when a namespace goes, the Role that lets authconfig read in it goes
// with it, and that must not hold up everybody else's roles.
func (c *Client) Sources(ctx context.Context, sources []desired.Source) ([]desired.ConfigMap, error) {
	all := make([]desired.ConfigMap, 0, len(sources))
	for _, s := range sources {
		found, err := c.configMap(ctx, s.Namespace, s.Name)
		m := desired.ConfigMap{Source: s}
		switch {
		case apierrors.IsNotFound(err):
			m.Missing = true
		case apierrors.IsForbidden(err):
			m.Missing, m.Why = true, "cannot be read: "+errors.Unwrap(err).Error()
		case err != nil:
			return nil, err
		default:
			m.Data, m.Binary = found.Data, slices.Sorted(maps.Keys(found.BinaryData))
		}
		all = append(all, m)
	}
	return all, nil
}

func (c *Client) configMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	m, err := c.kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		err = rule{verb: "get", resource: "configmaps", namespace: namespace, name: name}.missing(err)
		return nil, fmt.Errorf("reading ConfigMap %s/%s: %w", namespace, name, err)
	}
	return m, nil
}

// rootCA is the ConfigMap that the controller manager keeps in each namespace.
const rootCA, rootCAKey = "kube-root-ca.crt", "ca.crt"

// CA implements API.
func (c *Client) CA(ctx context.Context) (string, error) {
	m, err := c.configMap(ctx, c.Namespace, rootCA)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("%w (the cluster's controller manager makes it in each namespace: is %q there, and authconfig's, as --namespace says? or set kubernetes.ca)", err, c.Namespace)
	}
	if err != nil {
		return "", err
	}
	bundle := strings.TrimSpace(m.Data[rootCAKey])
	if err := checkBundle(bundle); err != nil {
		return "", fmt.Errorf("reading ConfigMap %s/%s: key %s: %w (the cluster's controller manager keeps it; or set kubernetes.ca)",
			c.Namespace, rootCA, rootCAKey, err)
	}
	return bundle + "\n", nil
}

// checkBundle holds Vault's config from a CA that verifies nothing.
func checkBundle(bundle string) error {
	rest := []byte(bundle)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				return errors.New("it holds no PEM certificate")
			}
			return nil
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("PEM block %d (%s) is no certificate: %w", n+1, block.Type, err)
		}
	}
}
