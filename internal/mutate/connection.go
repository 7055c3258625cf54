package mutate

import (
	"crypto/x509"
	"net/netip"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Connection is a Vault server and a way to log in to it.
type Connection struct {
	// Vault lacks only the role.
	Vault config.Vault
	// CASource is an object of each workload's own namespace, or a
	// ClusterTrustBundle, whose certificates are Vault.CAFile in the agent; nil
	// where Vault.CA holds them or the system's roots do.
	CASource *corev1.VolumeProjection
	// ClientCertSource is the Secret of each workload's own namespace that is
	// Vault.ClientCert and Vault.ClientKey in the agent; nil where there is none.
	ClientCertSource *corev1.VolumeProjection
	// CredentialSource is the Secret of each workload's own namespace that holds
	// what Vault.Auth shows, with methods approle and token; else nil.
	CredentialSource *corev1.VolumeProjection
	// RoleTemplate makes the role of a pod that names none; may be empty.
	RoleTemplate string
	// AllowedNamespaces are patterns (path.Match) of the Kubernetes
	// namespaces whose pods may use the connection.
	AllowedNamespaces []string
}

type operatorConnection struct {
	Address            string                      `json:"address"`
	CA                 string                      `json:"ca"`
	CAConfigMap        *operatorKey                `json:"caConfigMap"`
	CASecret           *operatorKey                `json:"caSecret"`
	ClusterTrustBundle *operatorClusterTrustBundle `json:"clusterTrustBundle"`
	TLSServerName      string                      `json:"tlsServerName"`
	ClientCertSecret   *operatorName               `json:"clientCertSecret"`
	Proxy              string                      `json:"proxy"`
	Timeout            string                      `json:"timeout"`
	Headers            map[string]string           `json:"headers"`
	Namespace          string                      `json:"namespace"`
	Auth               operatorAuth                `json:"auth"`
	AllowedNamespaces  []string                    `json:"allowedNamespaces"`
}

// operatorName names an object.
type operatorName struct {
	Name string `json:"name"`
}

// operatorKey names a key of a ConfigMap or a Secret.
type operatorKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// operatorClusterTrustBundle is one bundle by its name, or all those of a
// signer that have the labels.
type operatorClusterTrustBundle struct {
	Name          string                `json:"name"`
	SignerName    string                `json:"signerName"`
	LabelSelector *metav1.LabelSelector `json:"labelSelector"`
}

func (c *operatorConnection) compile(p *Problems, at string) *Connection {
	if c.Address == "" {
		p.add(at+".address", "missing (such as \"https://vault.vault.svc:8200\")")
	} else if err := config.CheckAddress(c.Address); err != nil {
		p.add(at+".address", "%v", err)
	}
	out := &Connection{
		Vault: config.Vault{
			Address:       c.Address,
			CA:            c.CA,
			TLSServerName: c.TLSServerName,
			Proxy:         c.Proxy,
			Headers:       c.Headers,
			Namespace:     c.Namespace,
		},
		RoleTemplate:      c.Auth.Role,
		AllowedNamespaces: c.AllowedNamespaces,
	}
	c.compileCA(p, at, out)
	if secret := c.ClientCertSecret; secret != nil {
		checkName(p, at+".clientCertSecret.name", secret.Name, "a Secret of type kubernetes.io/tls")
		out.ClientCertSource, out.Vault.ClientCert, out.Vault.ClientKey = clientCertProjection(secret.Name)
	}
	c.compileAuth(p, at+".auth", out)
	if c.TLSServerName != "" && (len(c.TLSServerName) > 253 || !serverName.MatchString(c.TLSServerName) && !isIP(c.TLSServerName)) {
		p.add(at+".tlsServerName", "%q (a host name of Vault's certificate, such as \"vault.example\")", c.TLSServerName)
	}
	if err := config.CheckProxy(c.Proxy); err != nil {
		p.add(at+".proxy", "%v", err)
	}
	if c.Timeout != "" {
		timeout, err := parseDuration(c.Timeout, config.MinTimeout)
		if err != nil {
			p.add(at+".timeout", "%v", err)
		}
		out.Vault.Timeout = config.Duration(timeout)
	}
	for _, err := range config.CheckHeaders(c.Headers) {
		p.add(at+".headers", "%v", err)
	}
	checkVaultNamespace(p, at+".namespace", c.Namespace)
	if out.AllowedNamespaces == nil {
		out.AllowedNamespaces = []string{"*"}
	}
	checkPatterns(p, at+".allowedNamespaces", out.AllowedNamespaces)
	return out
}

// compileCA reads where the certificates come from that Vault's has to lead to.
func (c *operatorConnection) compileCA(p *Problems, at string, out *Connection) {
	sources := []struct {
		name string
		set  bool
	}{{"ca", c.CA != ""}, {"caConfigMap", c.CAConfigMap != nil}, {"caSecret", c.CASecret != nil}, {"clusterTrustBundle", c.ClusterTrustBundle != nil}}
	var set []string
	for _, source := range sources {
		if source.set {
			set = append(set, source.name)
		}
	}
	if len(set) > 1 {
		p.add(at+"."+set[0], "stands beside %s (one of ca, caConfigMap, caSecret, clusterTrustBundle)", strings.Join(set[1:], " and "))
	}
	switch {
	case strings.Contains(c.CA, "PRIVATE KEY-----"):
		p.add(at+".ca", "holds a private key, which everybody who may read pods could read (certificates alone)")
	case c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)):
		p.add(at+".ca", "holds no certificate (a PEM bundle)")
	}
	if k := c.CAConfigMap; k != nil {
		k.check(p, at+".caConfigMap", "a ConfigMap")
		out.CASource, out.Vault.CAFile = configMapCA(k.Name, k.key())
	}
	if k := c.CASecret; k != nil {
		k.check(p, at+".caSecret", "a Secret")
		out.CASource, out.Vault.CAFile = secretCA(k.Name, k.key())
	}
	if b := c.ClusterTrustBundle; b != nil {
		b.check(p, at+".clusterTrustBundle")
		out.CASource, out.Vault.CAFile = trustBundleCA(b.Name, b.SignerName, b.selector())
	}
}

// key is the one that cert-manager and trust-manager write, unless stated.
func (k *operatorKey) key() string { return or(k.Key, "ca.crt") }

func (k *operatorKey) check(p *Problems, at, what string) {
	checkName(p, at+".name", k.Name, what)
	if len(validation.IsConfigMapKey(k.key())) > 0 {
		p.add(at+".key", "%q (a key of it, such as \"ca.crt\")", k.Key)
	}
}

func (b *operatorClusterTrustBundle) check(p *Problems, at string) {
	switch {
	case b.Name != "" && b.SignerName != "":
		p.add(at, "has both name and signerName (one of them)")
	case b.Name == "" && b.SignerName == "":
		p.add(at, "has neither name nor signerName (one of them)")
	case b.Name != "" && !isTrustBundleName(b.Name):
		p.add(at+".name", "%q (the name of a ClusterTrustBundle)", b.Name)
	case b.SignerName != "" && !isSignerName(b.SignerName):
		p.add(at+".signerName", "%q (a signer, such as \"example.com/vault\")", b.SignerName)
	}
	if b.LabelSelector == nil {
		return
	}
	if b.SignerName == "" {
		p.add(at+".labelSelector", "stands without signerName (only beside it)")
	}
	if _, err := metav1.LabelSelectorAsSelector(b.LabelSelector); err != nil {
		p.add(at+".labelSelector", "%v (matchLabels and matchExpressions as elsewhere in Kubernetes)", err)
	}
}

// selector is what the API asks for beside a signer: none matches nothing
// there, and an empty one everything.
func (b *operatorClusterTrustBundle) selector() *metav1.LabelSelector {
	if b.SignerName == "" {
		return nil
	}
	if b.LabelSelector == nil {
		return new(metav1.LabelSelector)
	}
	return b.LabelSelector
}

var (
	// serverName is what crypto/x509 compares with a certificate's names, which is
	// looser than DNS: certificates hold what their makers wrote.
	serverName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*$`)
	// vaultNamespace is a path that can stand in a header.
	vaultNamespace = regexp.MustCompile(`^[\x21-\x7e]*$`)
)

// isTrustBundleName tells whether s can be the name of a ClusterTrustBundle: that
// of one with a signer begins with the signer's, colons in place of the slash.
func isTrustBundleName(s string) bool {
	if i := strings.LastIndex(s, ":"); i >= 0 {
		return isSignerName(strings.Replace(s[:i], ":", "/", 1)) && isSubdomain(s[i+1:])
	}
	return isSubdomain(s)
}

// isSignerName tells whether s is a domain of at least two labels, a slash and
// a name (k8s.io/kubernetes/pkg/apis/certificates/validation states the rule).
func isSignerName(s string) bool {
	domain, name, ok := strings.Cut(s, "/")
	return ok && isSubdomain(domain) && strings.Contains(domain, ".") && isSubdomain(name)
}

func isSubdomain(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func checkVaultNamespace(p *Problems, at, value string) {
	if !vaultNamespace.MatchString(value) {
		p.add(at, "%q (the path of a Vault namespace, such as \"team/shop\")", value)
	}
}

// checkName reports a name that no object in a namespace has.
func checkName(p *Problems, at, name, what string) {
	switch {
	case name == "":
		p.add(at, "missing (the name of %s in each workload's namespace)", what)
	case !isSubdomain(name):
		p.add(at, "%q (the name of %s: lower-case letters, digits, \"-\" and \".\")", name, what)
	}
}
