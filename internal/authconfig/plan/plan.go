// Package plan compares what is wanted with what Vault has and with what
// authconfig made itself, and says what to do. It is pure.
package plan

import (
	"bytes"
	"encoding/json"
	"maps"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// Target is what Vault is to hold.
type Target struct {
	// Mount is the path below auth/, such as "kubernetes/staging/backend".
	Mount string
	Tune  Tune
	// Type of the mount: "kubernetes" or "jwt".
	Type string
	// Config is written whole. What it holds of credentials is the reviewer's
	// and is not in here.
	Config desired.Fields
	// ReviewerToken says whether the config is to hold a reviewer token; nil is
	// not compared.
	ReviewerToken *bool
	// Mark says which reviewer token the config is to hold, see Marked; empty is
	// not compared.
	Mark string
	// NewCredential says why the config is to be written even if it does not
	// differ: its reviewer token is due; empty if it is not.
	NewCredential string
	Roles         desired.Roles
	// Sources are all ConfigMaps that are listed (namespace/name), whether they
	// are there or not.
	Sources []string
	// Own are the roles that authconfig needs itself, such as the one of its
	// probe, by name.
	Own map[string]desired.Role
	// Adopt takes over a mount that somebody else made, and roles of the wanted
	// names. It never deletes what was not wanted.
	Adopt bool
}

// Tune is what is kept of a mount's own settings.
type Tune struct {
	Description string
	// DefaultLeaseTTL and MaxLeaseTTL in whole seconds; 0 is Vault's own.
	DefaultLeaseTTL, MaxLeaseTTL time.Duration
}

// Observed is what Vault holds.
type Observed struct {
	// Cluster is Vault's cluster id.
	Cluster string
	// Mount is nil where the path is free.
	Mount *Mount
	// InTheWay is another mount (below auth/, without slashes around it) because
	// of which there can be none at the path, since one lies below the other.
	InTheWay string
	// Config is nil where there is none yet.
	Config desired.Fields
	// ReviewerToken says whether the config holds a reviewer token; nil where
	// Vault does not say, as for type jwt.
	ReviewerToken *bool
	// Mark is what the config says of it, see Marked.
	Mark string
	// Roles has all roles of the mount, by name as Vault lists them: type
	// kubernetes has them in lower case.
	Roles map[string]desired.Fields
	// RolesUnknown says that they could not be looked at: nothing happens to them.
	RolesUnknown bool
}

// Mount is an auth mount as sys/auth lists it.
type Mount struct {
	Type, Accessor string
	Tune           Tune
}

// Record is what authconfig made. It lies in the cluster. Nothing of it is
// secret.
type Record struct {
	// Version of this format, RecordVersion.
	Version int `json:"version"`
	// VaultCluster and Accessor say which mount of which Vault all else is about.
	VaultCluster string `json:"vaultCluster,omitempty"`
	Mount        string `json:"mount,omitempty"`
	Accessor     string `json:"accessor,omitempty"`
	// Creating says that the mount was about to be made: one that is there
	// afterwards, without a config, is ours.
	Creating bool `json:"creating,omitempty"`
	// Tune and Config are the Hash of what was written last.
	Tune   string `json:"tune,omitempty"`
	Config string `json:"config,omitempty"`
	// Roles that are ours, by name in lower case.
	Roles map[string]RecordedRole `json:"roles,omitempty"`
	// Reviewer is what is known of the credential in the config.
	Reviewer Reviewer `json:"reviewer,omitzero"`
}

// Clone is a copy that shares nothing with r.
func (r Record) Clone() Record {
	r.Roles = maps.Clone(r.Roles)
	r.Reviewer.Keys = maps.Clone(r.Reviewer.Keys)
	return r
}

// Made notes that the mount was made. Of one before it nothing is left: roles that
// are not about to be made are gone, and no login has proven a config.
func (r *Record) Made(accessor string) {
	r.Accessor, r.Creating, r.Config, r.Reviewer.Mode = accessor, false, "", ""
	maps.DeleteFunc(r.Roles, func(_ string, role RecordedRole) bool { return !role.Creating })
}

// Equal reports whether both are stored as the same text.
func (r *Record) Equal(other *Record) bool {
	a, errA := json.Marshal(r)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// RecordVersion is the only Record.Version that this build understands.
const RecordVersion = 1

// RecordedRole is a role that authconfig wrote.
type RecordedRole struct {
	// Source is the ConfigMap (namespace/name) that asked for it, empty for an
	// own one.
	Source string `json:"source,omitempty"`
	// Hash of its fields, see Hash.
	Hash string `json:"hash"`
	// Creating says that it was about to be made: it is ours if Vault has it with
	// this hash.
	Creating bool `json:"creating,omitempty"`
	// Next is the hash of what it was about to become, empty at rest: it may have.
	Next string `json:"next,omitempty"`
}

// Reviewer is what is known of the credential that Vault reviews tokens with.
type Reviewer struct {
	// Mode is that of package reviewer.
	Mode string `json:"mode,omitempty"`
	// Secret and SecretUID name the Secret that the token is bound to, or that
	// holds it.
	Secret    string `json:"secret,omitempty"`
	SecretUID string `json:"secretUID,omitempty"`
	// SecretVersion is the resourceVersion of a Secret that holds the token.
	SecretVersion string `json:"secretVersion,omitempty"`
	// Issued and Expires bound the token's life; zero where it has no end.
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// Retired is the Secret of the token before, until it is deleted.
	Retired RetiredSecret `json:"retired,omitzero"`
	// Keys are the cluster's public keys by id.
	Keys map[string]Key `json:"keys,omitempty"`
	// NoDiscovery is why keys are written though discovery was asked for.
	NoDiscovery string `json:"noDiscovery,omitempty"`
}

// RetiredSecret is a Secret whose token Vault has no more.
type RetiredSecret struct {
	Secret    string `json:"secret"`
	SecretUID string `json:"secretUID"`
	// Delete says when: a little later, for the logins that are under way.
	Delete time.Time `json:"delete"`
}

// Key is a public key that signs ServiceAccount tokens, as PEM.
type Key struct {
	PEM string `json:"pem"`
	// Gone is when it was first not served any more; zero while it is.
	Gone time.Time `json:"gone,omitzero"`
}

// Verb is what a step does.
type Verb string

// The verbs. Adopt only records what is there already.
const (
	Create Verb = "create"
	Change Verb = "change"
	Adopt  Verb = "adopt"
	Delete Verb = "delete"
)

// Kind is what a step is about.
type Kind string

// The kinds, in the order in which they are applied. authconfig's own roles come
// before the config, whose proof is a login with one of them; deletions come last
// of all, in the reverse order.
const (
	KindServiceAccount Kind = "serviceaccount"
	KindBinding        Kind = "clusterrolebinding"
	KindSecret         Kind = "secret"
	KindMount          Kind = "mount"
	KindTune           Kind = "tune"
	KindConfig         Kind = "config"
	KindRole           Kind = "role"
)

var kinds = []Kind{KindServiceAccount, KindBinding, KindSecret, KindMount, KindTune, KindConfig, KindRole}

// Step is one change.
type Step struct {
	Verb Verb
	Kind Kind
	// Name is the role's, the mount's or namespace/name of an object in the
	// cluster.
	Name string
	// Source of a role, see desired.Role.
	Source string
	// Before is nil for Create, After for Delete.
	Before, After desired.Fields
	// Why is told beside it, empty where the fields say it all.
	Why string
	// Drift says that Vault's content was ours and somebody changed it.
	Drift bool
}

// Plan is what to do.
type Plan struct {
	// Cluster, Mount, Type and Tune are those of the target.
	Cluster, Mount, Type string
	Tune                 Tune
	// Record is what is known to be ours before the first step. It may differ from
	// the one that Compute was given: an intent of a run that was cut short is
	// found to have happened or not.
	Record Record
	// Steps in the order in which they are applied.
	Steps []Step
	// Problems are those of the sources.
	Problems []desired.Problem
	// Refused says why something wanted is not done: a mount of another type, a
	// role that somebody else made. Nothing happens to that.
	Refused []Refusal
}

// Refusal is one thing that is not done.
type Refusal struct {
	Kind Kind
	Name string
	// Source and Key are the ConfigMap and its key, for a role.
	Source, Key string
	Text        string // why, and the remedy
}
