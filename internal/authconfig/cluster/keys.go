package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	keysPath      = "/openid/v1/jwks"
	discoveryPath = "/.well-known/openid-configuration"
)

// Keys implements API. A key without an id goes by its hash.
func (c *Client) Keys(ctx context.Context) (map[string]string, error) {
	body, err := c.openID(ctx, keysPath)
	if err != nil {
		return nil, err
	}
	keys, err := pemKeys(body)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's %s: %w", keysPath, err)
	}
	return keys, nil
}

// Issuer implements API.
func (c *Client) Issuer(ctx context.Context) (string, error) {
	body, err := c.openID(ctx, discoveryPath)
	if err != nil {
		return "", err
	}
	var document struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return "", fmt.Errorf("reading the API server's %s: %w", discoveryPath, err)
	}
	if document.Issuer == "" {
		return "", fmt.Errorf("reading the API server's %s: it names no issuer", discoveryPath)
	}
	return document.Issuer, nil
}

func (c *Client) openID(ctx context.Context, path string) ([]byte, error) {
	body, err := c.kube.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	switch {
	case apierrors.IsForbidden(err):
		err = fmt.Errorf("%w (bind the ClusterRole system:service-account-issuer-discovery to authconfig's ServiceAccount)", err)
	case apierrors.IsNotFound(err):
		err = fmt.Errorf("%w (the API server serves it only if its --service-account-issuer is an https URL)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the API server's %s: %w", path, err)
	}
	return body, nil
}

// pemKeys are the public keys of a JSON Web Key Set (RFC 7517) by id.
func pemKeys(set []byte) (map[string]string, error) {
	var jwks jose.JSONWebKeySet
	if err := json.Unmarshal(set, &jwks); err != nil {
		return nil, err
	}
	keys := map[string]string{}
	for _, k := range jwks.Keys {
		if !k.IsPublic() {
			return nil, fmt.Errorf("key %q is not a public key", k.KeyID)
		}
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k.KeyID, err)
		}
		id := k.KeyID
		if id == "" {
			id = fmt.Sprintf("%x", sha256.Sum256(der))
		}
		keys[id] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return keys, nil
}
