// Package cluster is authconfig's edge to Kubernetes.
//
// These are the rights that its calls need, by a Role of the namespace in
// question or, where that says "cluster", by a ClusterRole. NS is authconfig's
// namespace. Verbs in brackets are for the watches of package authconfig.
//
// Always:
//
//	where          resource                                     verbs
//	NS             configmaps kube-root-ca.crt                  get [list watch]
//	NS             configmaps latchkey-authconfig               get update
//	NS             configmaps (no name)                         create
//	a source's     configmaps, that one                         get [list watch]
//	NS             serviceaccounts, the reviewer                [list watch]
//	NS             serviceaccounts/token, the reviewer          create
//
// Reviewer short-lived, and until another mode has deleted the last Secret:
//
//	NS             secrets latchkey-reviewer-a, -b              get delete [list watch]
//	NS             secrets (no name)                            create
//
// Reviewer long-lived:
//
//	NS             secrets, the one that is named               get [list watch]
//
// Reviewer jwt: /openid/v1/jwks and /.well-known/openid-configuration, which
// every ServiceAccount may get on a cluster as it comes, by the ClusterRole
// system:service-account-issuer-discovery.
//
// Objects, only when authconfig is to make them itself:
//
//	NS             serviceaccounts                              get list create delete
//	cluster        serviceaccounts                              the same, if accounts of other namespaces are listed
//	cluster        namespaces, those                            get (without it, that one is missing shows when it is too late)
//	cluster        clusterrolebindings latchkey-authconfig-delegators-NS    get update delete [list watch]
//	cluster        clusterrolebindings (no name)                create
//	cluster        clusterroles system:auth-delegator           bind
//	NS             secrets (no name), and the long-lived one    create; get delete
//
// What it made before and is not asked for now, authconfig deletes only while it
// has get and delete on it (for ServiceAccounts list and delete): it asks by a
// SelfSubjectAccessReview, which everybody may create, and without leave does not
// look. An installation that once made a binding or a long-lived token should
// keep that leave until they are gone.
//
// The reviewer, not authconfig, needs create of tokenreviews and
// subjectaccessreviews (ClusterRole system:auth-delegator); and to get
// ServiceAccounts for alias metadata, and namespaces for roles with a namespace
// selector.
package cluster

import (
	"context"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// API is what authconfig asks of the API server.
type API interface {
	// Sources reads the ConfigMaps with roles. A missing one is no error.
	Sources(ctx context.Context, sources []desired.Source) ([]desired.ConfigMap, error)
	// CA is the bundle that pods verify the API server with, as PEM, from the
	// ConfigMap kube-root-ca.crt of authconfig's namespace.
	CA(ctx context.Context) (string, error)
	// Keys are the public keys that ServiceAccount tokens are verified with, as
	// PEM by key id, and Issuer the issuer of such tokens.
	Keys(ctx context.Context) (keys map[string]string, err error)
	Issuer(ctx context.Context) (string, error)

	// Record reads what authconfig noted; the zero Record where there is none yet.
	Record(ctx context.Context) (plan.Record, error)
	// SaveRecord stores it. A record that another has changed since Record read it
	// is an error.
	SaveRecord(ctx context.Context, r plan.Record) error

	// Token requests a token of a ServiceAccount (namespace/name). No audience is
	// the API server's own. bound may be nil.
	Token(ctx context.Context, account string, audience string, life time.Duration, bound *Secret) (Token, error)
	// Review has the API server review a token of a client, with the reviewer's
	// token as the caller's. It is an error that the reviewer may not, or that the
	// client's token is not good for the audience.
	Review(ctx context.Context, reviewer, client sealed.Value[string], audience string) error

	// Secret makes an empty Secret of the name, or finds it; fresh deletes one that
	// is there, so that tokens bound to it die: within ten seconds, for so long an
	// API server remembers that a token was good.
	Secret(ctx context.Context, name string, fresh bool) (Secret, error)
	// FindSecret says whether there is one, and what it holds of a ServiceAccount
	// token. One that is being deleted is none: it holds no token up any more.
	FindSecret(ctx context.Context, name string) (found *Secret, token sealed.Value[string], err error)
	DeleteSecret(ctx context.Context, s Secret) error
}

// Secret is one of authconfig's namespace. Version is its resourceVersion.
type Secret struct {
	Name, UID, Version string
	// Type is the Secret's, such as "Opaque", and Account the name of the
	// ServiceAccount that one of type kubernetes.io/service-account-token is for.
	Type, Account string
}

// Token is a ServiceAccount token.
type Token struct {
	JWT             sealed.Value[string]
	Issued, Expires time.Time
}
