package reviewer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// kubernetesConfig is a whole config of a mount of type kubernetes. The issuer is
// not validated: the API server does that when it reviews, and what it issues
// may change.
func kubernetesConfig(host, ca string, noLocal, aliasMetadata bool) desired.Fields {
	return desired.CanonicalConfig(desired.Kubernetes, map[string]any{
		"kubernetes_host":                   host,
		"kubernetes_ca_cert":                ca,
		"disable_iss_validation":            true,
		"disable_local_ca_jwt":              noLocal,
		"use_annotations_as_alias_metadata": aliasMetadata,
	})
}

// keysConfig is a whole config of a mount of type jwt that verifies with keys.
func keysConfig(issuer string, keys map[string]plan.Key) desired.Fields {
	var pems []string
	for _, k := range keys {
		pems = append(pems, k.PEM)
	}
	slices.Sort(pems)
	return desired.CanonicalConfig(desired.JWT, map[string]any{"bound_issuer": issuer, "jwt_validation_pubkeys": slices.Compact(pems)})
}

// discoveryConfig is a whole config of a mount of type jwt that asks the issuer
// for its keys.
func discoveryConfig(issuer, ca string) desired.Fields {
	return desired.CanonicalConfig(desired.JWT, map[string]any{"bound_issuer": issuer, "oidc_discovery_url": issuer, "oidc_discovery_ca_pem": ca})
}

// discover reports whether Vault is to fetch the keys. It is not tried again
// once it did not work, since trying may cost logins.
func (r *Reviewer) discover(rec *plan.Reviewer) bool {
	return r.Discovery && rec.NoDiscovery == ""
}

// see merges the keys that the API server serves into those that are known. One
// that is not served any more is kept for a while: of several API servers not all
// change at once.
func (r *Reviewer) see(ctx context.Context, rec *plan.Reviewer) error {
	served, err := r.cluster.Keys(ctx)
	if err == nil && len(served) == 0 {
		err = errors.New("the API server serves none")
	}
	if err != nil {
		return fmt.Errorf("reading the public keys of ServiceAccount tokens: %w", err)
	}
	known := r.keys
	if known == nil {
		known = rec.Keys
	}
	keys := maps.Clone(known)
	if keys == nil {
		keys = map[string]plan.Key{}
	}
	now := r.wall()
	for id, k := range known {
		if k.Gone.IsZero() {
			k.Gone = now
		}
		keys[id] = k
		if now.Sub(k.Gone) >= r.KeyGrace {
			delete(keys, id)
		}
	}
	for id, pem := range served {
		keys[id] = plan.Key{PEM: pem}
	}
	r.keys, rec.Keys = keys, maps.Clone(keys)
	return nil
}
