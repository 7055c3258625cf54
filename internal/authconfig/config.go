package authconfig

import (
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/config"
)

// Config is what the platform operator decides. docs/authconfig.md describes its
// keys for people.
type Config struct {
	// Vault is the server, and authconfig's own login to it.
	Vault config.Vault `json:"vault"`
	// Mount is the auth mount that is kept. Several clusters of one Vault have an
	// authconfig each, with a mount each.
	Mount Mount `json:"mount"`
	// Kubernetes is the API server as Vault sees it.
	Kubernetes Kubernetes `json:"kubernetes"`
	// Audience of roles that name none. Empty is "vault", which is what the
	// injector asks tokens for; in mode client it is none.
	Audience string   `json:"audience"`
	Reviewer Reviewer `json:"reviewer"`
	// Sources are the ConfigMaps with the roles. None is DefaultSource alone.
	Sources []desired.Source `json:"sources"`
	// ServiceAccounts are made, and removed when they are no longer listed.
	ServiceAccounts []ServiceAccount `json:"serviceAccounts"`
	// Resync is how often Vault is looked at for what others changed there.
	Resync config.Duration `json:"resync"`
}

// Mount is an auth mount of Vault.
type Mount struct {
	// Path with or without the leading "auth/", such as "kubernetes/staging/backend".
	Path        string `json:"path"`
	Description string `json:"description"`
	// DefaultLeaseTTL and MaxLeaseTTL are Vault's own if they are 0.
	DefaultLeaseTTL config.Duration `json:"defaultLeaseTTL"`
	MaxLeaseTTL     config.Duration `json:"maxLeaseTTL"`
	// Adopt takes over a mount, and roles of the wanted names, that others made.
	Adopt bool `json:"adopt"`
}

// Tune is what is kept of the mount's own settings.
func (m Mount) Tune() plan.Tune {
	return plan.Tune{Description: m.Description, DefaultLeaseTTL: time.Duration(m.DefaultLeaseTTL), MaxLeaseTTL: time.Duration(m.MaxLeaseTTL)}
}

// Kubernetes is the API server as Vault sees it.
type Kubernetes struct {
	// Host is a URL. Empty is https://kubernetes.default.svc in a pod, and the
	// server of the kubeconfig elsewhere.
	Host string `json:"host"`
	// CA is a PEM bundle. Empty is the cluster's own, followed when it rotates.
	CA string `json:"ca"`
}

// Reviewer says with whose token Vault reviews those of its clients.
type Reviewer struct {
	// Mode is one of reviewer.Modes.
	Mode string `json:"mode"`
	// ServiceAccount of authconfig's namespace: the reviewer, and in every mode
	// who tries a login after each change.
	ServiceAccount string `json:"serviceAccount"`
	// Secret of authconfig's namespace that holds the token, in mode
	// long-lived. Empty is the ServiceAccount's name with "-token" behind it.
	Secret string `json:"secret"`
	// Life of a token, in mode short-lived, and the age at which it is replaced: 0
	// is about half of the life.
	Life        config.Duration `json:"life"`
	RotateAfter config.Duration `json:"rotateAfter"`
	// AliasMetadata takes annotations of a client's ServiceAccount as metadata of
	// its alias.
	AliasMetadata bool `json:"aliasMetadata"`
	// Discovery has Vault fetch the keys from the API server, in mode jwt, where
	// Vault shows that it can.
	Discovery bool `json:"discovery"`
	// Create makes the ServiceAccount, its binding and its Secret.
	Create bool `json:"create"`
}

// ServiceAccount is one that authconfig makes.
type ServiceAccount struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Delegator binds it to system:auth-delegator, as clients need it in mode client.
	Delegator bool `json:"delegator"`
}

// String is namespace/name.
func (a ServiceAccount) String() string { return a.Namespace + "/" + a.Name }

// DefaultSource is where roles are read from if the configuration names nothing.
var DefaultSource = desired.Source{Namespace: "vault-auth", Name: "vault-auth-roles"}

// DefaultAudience is what the injector asks ServiceAccount tokens for.
const DefaultAudience = "vault"

// LoginTokenPath is where the chart projects the ServiceAccount token that
// authconfig logs in with.
const LoginTokenPath = "/var/run/secrets/latchkey.dev/vault/token"

// DefaultConfig has a value wherever there is a default that does not depend on
// others.
func DefaultConfig() *Config {
	return &Config{
		Vault: config.Vault{Auth: config.Auth{Method: config.MethodJWT}},
		Mount: Mount{Path: "kubernetes", Description: "Kept by latchkey authconfig"},
		Reviewer: Reviewer{
			Mode:           reviewer.ShortLived,
			ServiceAccount: "latchkey-reviewer",
			Life:           config.Duration(time.Hour),
		},
		Resync: config.Duration(10 * time.Minute),
	}
}

// complete fills in the defaults that depend on other settings.
func (c *Config) complete() {
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	a := &c.Vault.Auth
	switch a.Method {
	case config.MethodJWT, config.MethodKubernetes:
		// In method kubernetes the mount has no default: it must not be the one that
		// is kept.
		if a.Method == config.MethodJWT {
			fill(&a.Mount, "jwt")
		}
		fill(&a.Role, "latchkey-authconfig")
		fill(&a.TokenPath, LoginTokenPath)
	case config.MethodAppRole:
		fill(&a.Mount, "approle")
	}
	if c.Reviewer.Mode == reviewer.LongLived {
		fill(&c.Reviewer.Secret, c.Reviewer.ServiceAccount+"-token")
	}
	if c.Reviewer.Mode != reviewer.Client {
		fill(&c.Audience, DefaultAudience)
	}
	if len(c.Sources) == 0 {
		c.Sources = []desired.Source{DefaultSource}
	}
}
