package reviewer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// kubernetesConfig is a whole config of a mount of type kubernetes. The issuer is
// not validated: the API server does that when it reviews, and what it issues
// may change.
func kubernetesConfig(host, ca string, noLocal, aliasMetadata bool) desired.Fields {
	return desired.Fields{
		"kubernetes_host":                   host,
		"kubernetes_ca_cert":                ca,
		"pem_keys":                          []string{},
		"issuer":                            "",
		"disable_iss_validation":            true,
		"disable_local_ca_jwt":              noLocal,
		"use_annotations_as_alias_metadata": aliasMetadata,
	}
}

// keysConfig is a whole config of a mount of type jwt that verifies with keys.
func keysConfig(issuer string, keys map[string]plan.Key) desired.Fields {
	var pems []string
	for _, k := range keys {
		pems = append(pems, strings.TrimSpace(k.PEM)+"\n")
	}
	slices.Sort(pems)
	f := jwtConfig(issuer)
	f["jwt_validation_pubkeys"] = slices.Compact(pems)
	return f
}

// discoveryConfig is a whole config of a mount of type jwt that asks the issuer
// for its keys.
func discoveryConfig(issuer, ca string) desired.Fields {
	f := jwtConfig(issuer)
	f["oidc_discovery_url"], f["oidc_discovery_ca_pem"] = issuer, ca
	return f
}

func jwtConfig(issuer string) desired.Fields {
	return desired.Fields{
		"oidc_discovery_url":     "",
		"oidc_discovery_ca_pem":  "",
		"jwks_url":               "",
		"jwks_ca_pem":            "",
		"jwt_validation_pubkeys": []string{},
		"jwt_supported_algs":     []string{},
		"bound_issuer":           issuer,
		"default_role":           "",
	}
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

// own is the probe's role: its token is not stored by Vault, grants nothing, and
// ends by itself.
func (r *Reviewer) own(typ string) (map[string]desired.Role, error) {
	f := desired.Probe(desired.Defaults{MountType: typ, Audience: r.audience()}, r.namespace, r.account)
	return map[string]desired.Role{ProbeRole: {Fields: f}}, nil
}
