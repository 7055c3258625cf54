package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Environment variables that go with EnvKubeconfig when it names a cluster that is not the box.
const (
	EnvVaultAddress = "LATCHKEY_TEST_VAULT_ADDR"   // as reached from the tests and from pods
	EnvVaultToken   = "LATCHKEY_TEST_VAULT_TOKEN"  // may do everything
	EnvVaultCA      = "LATCHKEY_TEST_VAULT_CACERT" // file; required
)

// A Cluster is what a suite runs on: the box, or another one that the user names.
type Cluster struct {
	Kubeconfig string // path
	Context    string // the context it uses
	REST       *rest.Config
	VaultAddr  string // as pods reach it
	VaultCA    []byte // PEM

	box   *Box // nil: not the box
	ca    *authority
	vault func() (*api.Client, error)
}

// Connect returns the cluster named by LATCHKEY_TEST_KUBECONFIG, which `cluster exec` sets to the box's. KUBECONFIG is
// ignored, so that no suite ever runs on a cluster that its user did not mean.
func Connect() (*Cluster, error) {
	path := os.Getenv(EnvKubeconfig)
	if path == "" {
		return nil, fmt.Errorf("%s is not set (run this through `cluster exec --`, as the Makefile does, or name a cluster's kubeconfig)", EnvKubeconfig)
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: path}, nil)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	c := &Cluster{Kubeconfig: path, Context: raw.CurrentContext}
	if c.REST, err = loader.ClientConfig(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	c.REST.QPS, c.REST.Burst = 200, 400
	if dir := os.Getenv(EnvState); dir != "" && (Box{dir}).Kubeconfig() == path {
		return c, c.connectBox(Box{dir})
	}
	return c, c.connectOther()
}

func (c *Cluster) connectBox(b Box) (err error) {
	if c.ca, err = b.authority(); err != nil {
		return err
	}
	c.box, c.VaultAddr, c.VaultCA = &b, VaultAddress, c.ca.pem()
	c.vault = func() (*api.Client, error) {
		token, err := os.ReadFile(b.path("vault-root-token"))
		if err != nil {
			return nil, fmt.Errorf("reading Vault's root token: %w", err)
		}
		return b.vaultClient(c.VaultCA, strings.TrimSpace(string(token)))
	}
	return nil
}

func (c *Cluster) connectOther() (err error) {
	if c.ca, err = newAuthority(); err != nil {
		return err
	}
	c.VaultAddr = os.Getenv(EnvVaultAddress)
	if file := os.Getenv(EnvVaultCA); file != "" {
		if c.VaultCA, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("reading %s: %w", EnvVaultCA, err)
		}
	}
	c.vault = func() (*api.Client, error) {
		if c.VaultAddr == "" || c.VaultCA == nil || os.Getenv(EnvVaultToken) == "" {
			return nil, fmt.Errorf("the cluster is not the box: set %s, %s and %s", EnvVaultAddress, EnvVaultToken, EnvVaultCA)
		}
		return newVaultClient(c.VaultAddr, c.VaultCA, os.Getenv(EnvVaultToken), (&net.Dialer{}).DialContext)
	}
	return nil
}

// String says which cluster it is, for the first line of a suite.
func (c *Cluster) String() string {
	if c.box != nil {
		return fmt.Sprintf("context %q of %s (the box)", c.Context, c.Kubeconfig)
	}
	return fmt.Sprintf("context %q of %s at %s", c.Context, c.Kubeconfig, c.REST.Host)
}

// IsBox reports whether the cluster is the box, whose daemons can be killed.
func (c *Cluster) IsBox() bool { return c.box != nil }

// Tool returns a program that goes with the cluster (kubectl, helm): the box's own, or the one on the PATH.
func (c *Cluster) Tool(name string) string {
	if c.box == nil {
		return name
	}
	return c.box.bin(name)
}

// CA returns the certificate (PEM) of the authority behind IssueServing.
func (c *Cluster) CA() []byte { return c.ca.pem() }

// IssueServing issues a serving certificate for host names or IP addresses, signed by CA. It lives as long as the box.
func (c *Cluster) IssueServing(names ...string) (certPEM, keyPEM []byte, err error) {
	if len(names) == 0 {
		return nil, nil, errors.New("issuing a serving certificate: no name is given")
	}
	return c.ca.serving(names...)
}

// Vault returns a client with the root token.
func (c *Cluster) Vault() (*api.Client, error) { return c.vault() }

// A Role is a role of auth method `kubernetes` together with the policy of the same name that it gives.
type Role struct {
	Name            string
	Namespaces      []string // bound; "*" for all
	ServiceAccounts []string // bound; "*" for all
	Audience        string   // required of the token; "" for any
	Policy          string   // HCL
	TTL             time.Duration
	MaxTTL          time.Duration
}

// WriteRole makes or replaces a role and its policy in Vault. Durations of 0 are Vault's defaults.
func (c *Cluster) WriteRole(ctx context.Context, r Role) error {
	client, err := c.Vault()
	if err != nil {
		return err
	}
	if err := client.Sys().PutPolicyWithContext(ctx, r.Name, r.Policy); err != nil {
		return fmt.Errorf("writing policy %s: %w", r.Name, err)
	}
	if _, err := client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/"+r.Name, map[string]any{
		"bound_service_account_names":      r.ServiceAccounts,
		"bound_service_account_namespaces": r.Namespaces,
		"audience":                         r.Audience,
		"token_policies":                   []string{r.Name},
		"token_ttl":                        int(r.TTL.Seconds()),
		"token_max_ttl":                    int(r.MaxTTL.Seconds()),
	}); err != nil {
		return fmt.Errorf("writing role %s: %w", r.Name, err)
	}
	return nil
}

// KillDaemon kills a daemon of the box (kubelet, containerd, …) as a crash would, and returns when it is dead. Containers
// live on.
func (c *Cluster) KillDaemon(name string) error {
	if c.box == nil {
		return fmt.Errorf("killing %s: the cluster is not the box", name)
	}
	return c.box.Kill(name)
}

// StartDaemon starts a daemon that was killed, with the arguments that it had. It returns before the daemon is ready.
func (c *Cluster) StartDaemon(name string) error {
	if c.box == nil {
		return fmt.Errorf("starting %s: the cluster is not the box", name)
	}
	return c.box.Start(name)
}

// KillKubelet kills the kubelet.
func (c *Cluster) KillKubelet() error { return c.KillDaemon("kubelet") }

// StartKubelet starts the kubelet again.
func (c *Cluster) StartKubelet() error { return c.StartDaemon("kubelet") }
