package authconfig

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	// MinLife is the shortest life that the API server gives a ServiceAccount
	// token, MaxLife the longest (TokenRequestSpec.expirationSeconds).
	MinLife = 10 * time.Minute
	MaxLife = (1 << 32) * time.Second
	// MinResync keeps authconfig from being a load test of Vault.
	MinResync = 5 * time.Second
)

// validate reports everything that is wrong with a complete configuration.
func (c *Config) validate() problems {
	var p problems
	c.validateVault(&p)
	c.validateMount(&p)
	c.validateKubernetes(&p)
	c.validateReviewer(&p)
	if r := time.Duration(c.Resync); r < MinResync {
		p.add("resync", "%s (at least %s)", r, MinResync)
	}
	seen := map[string]bool{}
	for i, s := range c.Sources {
		at := fmt.Sprintf("sources[%d]", i)
		checkObject(&p, at, s.Namespace, s.Name, "ConfigMap")
		if seen[s.String()] {
			p.add(at, "%s stands more than once (each ConfigMap once)", s)
		}
		seen[s.String()] = true
		for list, patterns := range map[string][]string{"allowedNamespaces": s.AllowedNamespaces, "allowedPolicies": s.AllowedPolicies} {
			switch {
			case patterns != nil && len(patterns) == 0:
				// Nothing is what the list allows, and everything what it is read as.
				p.add(at+"."+list, "is empty (%s)", restricting[list])
			case slices.Contains(patterns, ""):
				p.add(at+"."+list, "has an empty pattern (a name, or one with *)")
			}
		}
	}
	seen = map[string]bool{}
	for i, a := range c.ServiceAccounts {
		at := fmt.Sprintf("serviceAccounts[%d]", i)
		checkObject(&p, at, a.Namespace, a.Name, "ServiceAccount")
		if seen[a.String()] {
			p.add(at, "%s stands more than once (each ServiceAccount once)", a)
		}
		seen[a.String()] = true
		if a.Delegator && c.Reviewer.Mode != reviewer.Client {
			p.add(at+".delegator", "true has no use with reviewer.mode %q (%s, in which clients review their own tokens)", c.Reviewer.Mode, reviewer.Client)
		}
	}
	return p
}

func (c *Config) validateVault(p *problems) {
	if a := c.Vault.Auth; a.Method == config.MethodCert {
		p.add("vault.auth.method", "%q is a method for agents alone (jwt, approle, token, kubernetes)", a.Method)
		return
	}
	for _, err := range c.Vault.Validate() {
		at, text, _ := strings.Cut(err.Error(), ": ")
		if at == "vault.address" && c.Vault.Address == "" {
			text = `missing (the URL of Vault, such as "https://vault.example:8200")`
		}
		if allowed, empty := strings.CutPrefix(text, `"" (`); empty {
			text = "missing (" + allowed
		}
		p.add(at, "%s", text)
	}
}

func (c *Config) validateMount(p *problems) {
	if err := vault.CheckMount(c.Mount.Path); err != nil {
		p.add("mount.path", "%s", err)
	}
	for at, d := range map[string]config.Duration{"mount.defaultLeaseTTL": c.Mount.DefaultLeaseTTL, "mount.maxLeaseTTL": c.Mount.MaxLeaseTTL} {
		if d := time.Duration(d); d < 0 || d%time.Second != 0 {
			p.add(at, "%s (whole seconds; 0s for Vault's own)", d)
		}
	}
	if d, most := c.Mount.DefaultLeaseTTL, c.Mount.MaxLeaseTTL; most > 0 && d > most {
		p.add("mount.defaultLeaseTTL", "%s is longer than mount.maxLeaseTTL, %s", d, most)
	}
}

func (c *Config) validateKubernetes(p *problems) {
	if host := c.Kubernetes.Host; host != "" {
		const example = `such as "https://kubernetes.default.svc"`
		u, err := url.Parse(host)
		switch {
		case strings.Contains(host, "@"):
			p.add("kubernetes.host", "holds credentials (a URL without user and password)")
		case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.RawQuery != "", u.Fragment != "":
			p.add("kubernetes.host", "%q is no URL of an API server (%s)", host, example)
		}
	}
	if ca := c.Kubernetes.CA; ca != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
		p.add("kubernetes.ca", "holds no certificate (a PEM bundle)")
	}
}

func (c *Config) validateReviewer(p *problems) {
	r := c.Reviewer
	if !slices.Contains(reviewer.Modes, r.Mode) {
		p.add("reviewer.mode", "%q (%s)", r.Mode, strings.Join(reviewer.Modes, ", "))
		return
	}
	checkName(p, "reviewer.serviceAccount", r.ServiceAccount, "ServiceAccount")
	switch {
	case r.Mode == reviewer.LongLived:
		checkName(p, "reviewer.secret", r.Secret, "Secret")
	case r.Secret != "":
		p.add("reviewer.secret", "%q has no effect with reviewer.mode %s (%s)", r.Secret, r.Mode, reviewer.LongLived)
	}
	if life := time.Duration(r.Life); r.Mode == reviewer.ShortLived && (life < MinLife || life > MaxLife) {
		p.add("reviewer.life", "%s (%s to %s, as the API server has it)", life, MinLife, MaxLife)
	}
	if after, life := r.RotateAfter, r.Life; after < 0 || r.Mode == reviewer.ShortLived && after > life*9/10 {
		p.add("reviewer.rotateAfter", "%s (less than nine tenths of reviewer.life, %s; 0s for its half)", after, life)
	} else if after > 0 && r.Mode != reviewer.ShortLived {
		p.add("reviewer.rotateAfter", "%s has no effect with reviewer.mode %s (%s)", after, r.Mode, reviewer.ShortLived)
	}
	if r.Discovery && r.Mode != reviewer.JWT {
		p.add("reviewer.discovery", "true has no effect with reviewer.mode %s (%s)", r.Mode, reviewer.JWT)
	}
	if r.AliasMetadata && r.Mode == reviewer.JWT {
		p.add("reviewer.aliasMetadata", "true has no effect with reviewer.mode %s, which sees no ServiceAccount (another mode)", r.Mode)
	}
}

func checkObject(p *problems, at, namespace, name, kind string) {
	if len(validation.IsDNS1123Label(namespace)) > 0 {
		p.add(at+".namespace", "%q is no name of a namespace (lower-case letters, digits and \"-\")", namespace)
	}
	checkName(p, at+".name", name, kind)
}

func checkName(p *problems, at, name, kind string) {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		p.add(at, "%q is no name of a %s (lower-case letters, digits, \"-\" and \".\")", name, kind)
	}
}
