package authconfig

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/strictyaml"
)

// restricting are the keys without which more is allowed.
var restricting = map[string]string{
	"allowedNamespaces": "a list of patterns; without the key all of them",
	"allowedPolicies":   "a list of patterns; without the key all of them",
	"rolePrefix":        "a string; without the key any name",
	"ca":                "a PEM bundle; without the key another source, or the system's roots",
}

// Load is the configuration: flags win over the environment, that over the file,
// and that over the defaults. The flags are those of Bind, in a set that is made
// afresh twice, since the file is named by one of them. Wrong usage is an error
// of package cli; all that is wrong beside it is one error.
func Load(args []string, environ func(string) string, fresh func(*Config) (set *flag.FlagSet, file *string)) (*Config, *flag.FlagSet, error) {
	first, file := fresh(DefaultConfig())
	if err := cli.Parse(first, args); err != nil {
		return nil, first, err
	}
	name := *file
	if name == "" {
		name = environ(EnvName("config"))
	}
	c := DefaultConfig()
	var p problems
	if name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, first, fmt.Errorf("reading configuration: %w", err)
		}
		unknown, wrong, err := strictyaml.Decode(data, c, restricting)
		if err != nil {
			return nil, first, fmt.Errorf("reading configuration %s: %w", name, err)
		}
		for _, q := range append(unknown, wrong...) {
			p.add(q.At, "%s", q.Text)
		}
		if len(wrong) > 0 {
			return nil, first, p.err()
		}
	}
	sources := c.Sources
	c.Sources = nil
	inFile := c.Vault
	set, _ := fresh(c)
	set.VisitAll(func(f *flag.Flag) {
		if value := environ(EnvName(f.Name)); value != "" {
			if err := set.Set(f.Name, value); err != nil {
				p.add("$"+EnvName(f.Name), "%q: %s", value, err)
			}
		}
	})
	before := c.oneCA(inFile)
	if err := cli.Parse(set, args); err != nil {
		return nil, set, err // as the first time, which was none
	}
	c.oneCA(before)
	c.oneLogin(inFile.Auth)
	switch {
	case len(c.Sources) == 0:
		c.Sources = sources
	case len(sources) > 0:
		p.add("sources", "stand in the file and in --source (in one of them: a flag cannot say what a source may grant)")
	}
	c.complete()
	p = append(p, c.validate()...)
	return c, set, p.err()
}

// oneCA has what came after before win where one says vault.ca, and the other
// vault.caFile: a laptop's VAULT_CACERT over the file's bundle.
func (c *Config) oneCA(before config.Vault) config.Vault {
	v := &c.Vault
	switch bundle, file := v.CA != before.CA, v.CAFile != before.CAFile; {
	case file && !bundle && v.CAFile != "":
		v.CA = ""
	case bundle && !file && v.CA != "":
		v.CAFile = ""
	}
	return *v
}

// oneLogin forgets what the file says of a login by another method than the one
// that flags or environment ask for, as they do beside the chart's file.
func (c *Config) oneLogin(file config.Auth) {
	a := &c.Vault.Auth
	if a.Method == file.Method {
		return
	}
	for now, before := range map[*string]string{&a.Mount: file.Mount, &a.Role: file.Role, &a.Audience: file.Audience, &a.TokenPath: file.TokenPath,
		&a.RoleIDPath: file.RoleIDPath, &a.SecretIDPath: file.SecretIDPath, &a.SecretIDWrappingPath: file.SecretIDWrappingPath} {
		if *now == before {
			*now = ""
		}
	}
}

// Bind declares a flag for each setting that is one value.
func (c *Config) Bind(fs *flag.FlagSet) {
	for _, s := range c.settings() {
		switch field := s.field.(type) {
		case *string:
			fs.StringVar(field, s.flag, *field, s.doc)
		case *bool:
			fs.BoolVar(field, s.flag, *field, s.doc)
		case *config.Duration:
			fs.Var((*duration)(field), s.flag, s.doc)
		case *[]desired.Source:
			fs.Var((*sources)(field), s.flag, s.doc)
		}
	}
}

// setting is a value of the configuration that is a flag, too.
type setting struct {
	flag, at string
	field    any
	doc      string
}

// settings are all of them, in the order of the configuration.
func (c *Config) settings() []setting {
	v, a := &c.Vault, &c.Vault.Auth
	return []setting{
		{"vault-addr", "vault.address", &v.Address, "`URL` of Vault; required"},
		{"vault-ca", "vault.ca", &v.CA, "`PEM` bundle that Vault's certificate has to lead to (default: the system's roots)"},
		{"vault-ca-file", "vault.caFile", &v.CAFile, "`FILE` with that bundle, in place of --vault-ca; it may change"},
		{"vault-tls-server-name", "vault.tlsServerName", &v.TLSServerName, "`NAME` in Vault's certificate, where it is not the host"},
		{"vault-client-cert", "vault.clientCert", &v.ClientCert, "PEM `FILE` with the certificate that is shown to Vault's TLS"},
		{"vault-client-key", "vault.clientKey", &v.ClientKey, "PEM `FILE` with its key"},
		{"vault-namespace", "vault.namespace", &v.Namespace, "`NAMESPACE` of Vault that has the mount"},
		{"vault-timeout", "vault.timeout", &v.Timeout, "`DURATION` of one call (default 20s)"},
		{"vault-proxy", "vault.proxy", &v.Proxy, "`URL` of an HTTP proxy on the way to Vault"},
		{"auth-method", "vault.auth.method", &a.Method, "own login to Vault: jwt, approle, token or kubernetes"},
		{"auth-mount", "vault.auth.mount", &a.Mount, "`PATH` of the auth mount of that login; never the one that is kept (default: jwt, approle)"},
		{"auth-namespace", "vault.auth.namespace", &a.Namespace, "`NAMESPACE` of Vault for the login, where it is another"},
		{"auth-role", "vault.auth.role", &a.Role, "`ROLE` of methods jwt and kubernetes (default latchkey-authconfig)"},
		{"auth-audience", "vault.auth.audience", &a.Audience, "audience of the token that is shown, for messages"},
		{"auth-token-path", "vault.auth.tokenPath", &a.TokenPath, "`FILE` with a ServiceAccount token, or with method token a Vault token (default " + LoginTokenPath + ")"},
		{"auth-role-id-path", "vault.auth.roleIDPath", &a.RoleIDPath, "`FILE` with the role ID of method approle"},
		{"auth-secret-id-path", "vault.auth.secretIDPath", &a.SecretIDPath, "`FILE` with its secret ID"},
		{"auth-secret-id-wrapping-path", "vault.auth.secretIDWrappingPath", &a.SecretIDWrappingPath, "API `PATH` that wrapped the secret ID, if it is wrapped"},
		{"mount", "mount.path", &c.Mount.Path, "`PATH` of the auth mount that is kept"},
		{"mount-description", "mount.description", &c.Mount.Description, "its description"},
		{"mount-default-lease-ttl", "mount.defaultLeaseTTL", &c.Mount.DefaultLeaseTTL, "its default lease `DURATION` (default: Vault's)"},
		{"mount-max-lease-ttl", "mount.maxLeaseTTL", &c.Mount.MaxLeaseTTL, "its longest lease `DURATION` (default: Vault's)"},
		{"adopt", "mount.adopt", &c.Mount.Adopt, "take over a mount, and roles of the wanted names, that others made"},
		{"kubernetes-host", "kubernetes.host", &c.Kubernetes.Host, "`URL` of the API server as Vault reaches it (default: in a pod https://kubernetes.default.svc, else the kubeconfig's)"},
		{"kubernetes-ca", "kubernetes.ca", &c.Kubernetes.CA, "`PEM` bundle of the API server (default: the cluster's, followed when it rotates)"},
		{"audience", "audience", &c.Audience, "audience of roles that name none (default vault; in mode client none)"},
		{"reviewer-mode", "reviewer.mode", &c.Reviewer.Mode, "short-lived, long-lived, local, client or jwt"},
		{"reviewer-service-account", "reviewer.serviceAccount", &c.Reviewer.ServiceAccount, "`NAME` of the reviewer's ServiceAccount"},
		{"reviewer-secret", "reviewer.secret", &c.Reviewer.Secret, "mode long-lived: `NAME` of the Secret with the token (default: the ServiceAccount's with -token)"},
		{"reviewer-life", "reviewer.life", &c.Reviewer.Life, "mode short-lived: `DURATION` that a token lives"},
		{"reviewer-rotate-after", "reviewer.rotateAfter", &c.Reviewer.RotateAfter, "mode short-lived: `DURATION` after which a token is replaced (default: half of its life)"},
		{"reviewer-alias-metadata", "reviewer.aliasMetadata", &c.Reviewer.AliasMetadata, "take annotations of ServiceAccounts as metadata of aliases"},
		{"reviewer-discovery", "reviewer.discovery", &c.Reviewer.Discovery, "mode jwt: have Vault fetch the keys, where it can"},
		{"reviewer-create", "reviewer.create", &c.Reviewer.Create, "make the reviewer's ServiceAccount, binding and Secret"},
		{"source", "sources", &c.Sources, "ConfigMap with roles, `NAMESPACE/NAME`; may be repeated (default " + DefaultSource.String() + ")"},
		{"resync", "resync", &c.Resync, "`DURATION` between looks at Vault without a reason"},
	}
}

// environment are the variables of flags that are called as others call them.
var environment = map[string]string{
	"vault-addr":            "VAULT_ADDR",
	"vault-ca-file":         "VAULT_CACERT",
	"vault-client-cert":     "VAULT_CLIENT_CERT",
	"vault-client-key":      "VAULT_CLIENT_KEY",
	"vault-namespace":       "VAULT_NAMESPACE",
	"vault-tls-server-name": "VAULT_TLS_SERVER_NAME",
	"kubeconfig":            "KUBECONFIG",
}

// EnvName is the variable of a flag.
func EnvName(name string) string {
	if env, ok := environment[name]; ok {
		return env
	}
	return "AUTHCONFIG_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

type duration config.Duration

func (d *duration) String() string {
	if d == nil || *d == 0 {
		return "" // no default to be told
	}
	return time.Duration(*d).String()
}

func (d *duration) Set(s string) error {
	return (*config.Duration)(d).UnmarshalJSON([]byte(strconv.Quote(s)))
}

// sources is a list of ConfigMaps that may grant anything.
type sources []desired.Source

func (s *sources) String() string { return "" }

func (s *sources) Set(list string) error {
	for _, text := range strings.Split(list, ",") {
		namespace, name, ok := strings.Cut(strings.TrimSpace(text), "/")
		if !ok {
			return fmt.Errorf("%q is no ConfigMap (NAMESPACE/NAME)", text)
		}
		*s = append(*s, desired.Source{Namespace: namespace, Name: name})
	}
	return nil
}

// problems is everything that is wrong with a configuration, each as `where: what
// (what is allowed)`.
type problems []string

func (p *problems) add(at, format string, args ...any) {
	*p = append(*p, at+": "+fmt.Sprintf(format, args...)+said(at))
}

// said is how else to say what is wrong in the file.
func said(at string) string {
	for _, s := range new(Config).settings() {
		if s.at == at {
			return fmt.Sprintf(" [--%s, $%s]", s.flag, EnvName(s.flag))
		}
	}
	return ""
}

func (p problems) err() error {
	slices.Sort(p)
	switch p = slices.Compact(p); len(p) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("configuration: %s", p[0])
	}
	return errors.New("configuration: " + strconv.Itoa(len(p)) + " problems:\n  " + strings.Join(p, "\n  "))
}
