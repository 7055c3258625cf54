// Package desired turns the roles that people write in ConfigMaps into what
// Vault is to hold. It is pure: texts go in, canonical fields and problems come
// out.
package desired

import "strings"

// Fields are the parameters of one Vault endpoint in canonical form, whether
// somebody wrote them or Vault answered them, so that equal things compare equal.
// Durations are whole seconds. A value is a string, a bool, an int64, a
// []string, a map[string]string or a map[string][]string.
type Fields map[string]any

// Source is one ConfigMap with roles, and what it may grant: whoever may edit it
// may grant all of that.
type Source struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// AllowedNamespaces and AllowedPolicies are globs ("*" is any run of
	// characters); none is "*".
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"`
	AllowedPolicies   []string `json:"allowedPolicies,omitempty"`
	// RolePrefix is what the names of its roles have to begin with.
	RolePrefix string `json:"rolePrefix,omitempty"`
	// AllowAnyName lets a role bind every ServiceAccount of its namespaces with
	// the name "*".
	AllowAnyName bool `json:"allowAnyServiceAccount,omitempty"`
}

// String is what a person calls the ConfigMap: namespace/name.
func (s Source) String() string { return s.Namespace + "/" + s.Name }

// ConfigMap is a source as it was found.
type ConfigMap struct {
	Source
	// Missing says that the cluster has no such ConfigMap. It may be there and
	// not be readable: then Why says what hinders it and how to mend that.
	Missing bool
	Why     string
	// Data has a role as JSON or YAML for each name. Binary are the keys of its
	// binaryData, which cannot be roles.
	Data   map[string]string
	Binary []string
}

// Defaults are what a role gets that does not say otherwise, and what bounds all.
type Defaults struct {
	// MountType is "kubernetes" or "jwt": which fields Roles come out with.
	MountType string
	// Audience of roles that name none; empty is none.
	Audience string
	// Reserved are names of roles that no ConfigMap may use, in lower case.
	Reserved []string
}

// Roles is what all sources together ask for. Names of roles are in lower case,
// as Vault stores them.
type Roles struct {
	Roles map[string]Role
	// Problems are everything that is wrong, in order.
	Problems []Problem
	// Complete says that every source was there. Else a role whose source is
	// not listed any more may be one of the missing.
	Complete bool
}

// Untouched reports whether nothing may happen to a role, since what is asked
// for it is not understood, or since its ConfigMap is missing. source is the one
// that the role was last taken from.
func (r *Roles) Untouched(name, source string) bool {
	for _, p := range r.Problems {
		if p.Source == source && (p.Key == "" || strings.EqualFold(p.Key, name)) || p.Role != "" && p.Role == name {
			return true
		}
	}
	return false
}

// Role is one role of the mount.
type Role struct {
	// Source is the ConfigMap (namespace/name) and Key its key; both are empty for
	// a role of authconfig's own.
	Source, Key string
	Fields      Fields
}

// Problem is one thing that is wrong with a source.
type Problem struct {
	Source string // namespace/name
	Key    string // of its data; empty for the ConfigMap as a whole
	Role   string // in lower case, empty where its ConfigMap may not have it
	Text   string // what is wrong, what is allowed, what to do
}

// String is the problem with its place.
func (p Problem) String() string {
	if p.Key == "" {
		return "ConfigMap " + p.Source + ": " + p.Text
	}
	return "ConfigMap " + p.Source + ", key " + p.Key + ": " + p.Text
}
