package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
)

const callTimeout = 10 * time.Second // of one call, to whomever

// vault is the server of a connection that answers.
type vault struct {
	connection *mutate.Connection
	transport  http.RoundTripper
}

// connections asks the server of every connection how it is, all at once, since
// those that do not answer take their time.
func connections(ctx context.Context, e *env) []Result {
	if e.config == nil {
		return notChecked("which connections there are is not known without the configuration")
	}
	names := slices.Sorted(maps.Keys(e.config.Connections))
	if e.Connection != "" {
		names = []string{e.Connection}
	}
	results := make([][]Result, len(names))
	vaults := make([]*vault, len(names))
	var wait sync.WaitGroup
	for i, name := range names {
		wait.Go(func() {
			var found []Result
			vaults[i], found = e.checkConnection(ctx, name, e.config.Connections[name])
			results[i] = named("connection "+name, found)
		})
	}
	wait.Wait()
	for i, name := range names {
		if vaults[i] != nil {
			e.vaults[name] = vaults[i]
		}
	}
	return slices.Concat(results...)
}

// checkConnection returns the server if it can be used.
func (e *env) checkConnection(ctx context.Context, name string, c *mutate.Connection) (*vault, []Result) {
	found, problem := e.readTrust(ctx, c)
	if problem != nil {
		return nil, problem
	}
	transport, err := dialer(c, found)
	if err != nil {
		return nil, fail("correct the operator's configuration", "%v", err)
	}
	v := &vault{c, transport}
	client, err := v.client("")
	if err != nil {
		return nil, fail("correct the operator's configuration", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	health, err := client.Sys().HealthWithContext(ctx)
	if err != nil {
		return nil, e.judgeConnection(name, c, err)
	}
	if bad := judgeHealth(c.Vault.Address, health); bad != nil {
		return nil, bad
	}
	what := fmt.Sprintf("Vault %s at %s", health.Version, c.Vault.Address)
	if health.Standby && !health.PerformanceStandby {
		// A standby that forwards is as good as the active server. This path
		// is forwarded, and needs no token.
		response, err := client.Logical().ReadRawWithContext(ctx, "sys/internal/ui/mounts")
		if response != nil {
			response.Body.Close()
		}
		if err != nil {
			return nil, judgeStandby(c.Vault.Address, health.Version, err)
		}
		what += ", a standby that forwards"
	}
	return v, ok("%s%s", what, verifiedBy(c.Vault.Address, found.ca, e.inPod))
}

// verifiedBy says whose roots verified a server's certificate where that is
// not plain: without a ca agents take those of their image.
func verifiedBy(address string, ca []byte, inPod bool) string {
	switch {
	case !strings.HasPrefix(address, "https:") || len(ca) > 0:
		return ""
	case inPod:
		return ", verified by the public roots of this image, since the connection has no ca"
	}
	return ", verified by the roots of this machine, since the connection has no ca: agents have only the public ones of their image"
}

// judgeStandby says why a standby did not forward what it was asked.
func judgeStandby(address, version string, err error) []Result {
	const remedy = "use the address of the active server, such as that of Service vault-active, or let standbys forward"
	var response *api.ResponseError
	switch {
	case errors.As(err, new(vaultconn.Redirected)):
		return fail(remedy, "%s is a standby of Vault %s that sends others elsewhere, where agents do not follow", address, version)
	case errors.As(err, &response):
		return fail(remedy+"; its log says why it could not", "%s is a standby of Vault %s that does not forward: %s (%d)", address, version, strings.Join(response.Errors, "; "), response.StatusCode)
	}
	return fail(remedy+"; its log says why it could not", "%s is a standby of Vault %s that does not forward: %v", address, version, rootCause(err))
}

// dialer makes the transport that the agent would make: the environment has no
// say in it.
func dialer(c *mutate.Connection, t *trust) (http.RoundTripper, error) {
	roots, err := t.pool()
	if err != nil {
		return nil, err
	}
	var certificate func() (*tls.Certificate, error)
	if t.client != nil {
		certificate = func() (*tls.Certificate, error) { return t.client, nil }
	}
	return vaultconn.Transport(c.Vault, roots, certificate)
}

// client makes a client for one Vault namespace, without a token.
func (v *vault) client(namespace string) (*api.Client, error) {
	return vaultconn.Client(v.connection.Vault, v.transport, namespace, callTimeout)
}

// judgeHealth says what is wrong with a server that answers, nil if nothing is.
func judgeHealth(address string, h *api.HealthResponse) []Result {
	switch {
	case h.Version == "":
		return fail("correct the connection's address", "what answers at %s is no Vault", address)
	case !h.Initialized:
		return fail("vault operator init", "Vault %s at %s is not initialised", h.Version, address)
	case h.RemovedFromCluster != nil && *h.RemovedFromCluster:
		// It is sealed as well.
		return fail("take it out of the address, or let it join the cluster again", "Vault %s at %s was removed from its cluster", h.Version, address)
	case h.Sealed:
		return fail("vault operator unseal, and see why its auto-unseal did not, if it has one", "Vault %s at %s is sealed", h.Version, address)
	case h.ReplicationDRMode == "secondary":
		return fail("use the address of the primary cluster, or promote this one", "Vault %s at %s is of a disaster recovery secondary, which serves nobody", h.Version, address)
	case h.PerformanceStandby && h.HAConnectionHealthy != nil && !*h.HAConnectionHealthy:
		// It would answer reads by itself, but no login.
		return fail("see its way to the active server's cluster address", "Vault %s at %s is a performance standby that has lost the active server, so that nobody can log in", h.Version, address)
	}
	return nil
}

// judgeConnection says why a server did not answer.
func (e *env) judgeConnection(name string, c *mutate.Connection, err error) []Result {
	address := c.Vault.Address
	host := address
	if u, err := url.Parse(address); err == nil {
		host = u.Hostname()
	}
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var untrusted *tls.CertificateVerificationError
	var response *api.ResponseError
	text := err.Error()
	cause := rootCause(err)
	switch {
	case strings.Contains(text, "proxyconnect"):
		return fail("correct the connection's proxy: is it running, and is there a way to it from here?", "the proxy of %s cannot be reached: %v", address, cause)
	case errors.As(err, &dns) && !e.inPod && clusterName(host): // whatever the DNS here says, or does not
		r := notChecked("%s is a name that only the cluster knows", host)
		r[0].Remedy = fmt.Sprintf("run the check there: kubectl -n %s exec deploy/%s -- /injector check --connection %s", e.InjectorNamespace, injectorName, name)
		return r
	case errors.As(err, &dns):
		return fail("correct the connection's address, or the DNS", "%s cannot be reached: the name %s does not resolve", address, host)
	case errors.As(err, &authority) && c.Vault.CA == "" && c.CASource == nil:
		return fail("give the connection a ca, the bundle that issued it", "the certificate of %s is of no public authority, and the connection has no ca: %v", address, authority)
	case errors.As(err, &authority):
		return fail("the connection's ca must be the bundle that issued it", "the certificate of %s is not of the connection's CA: %v", address, authority)
	case errors.As(err, &wrongName):
		return fail("set the connection's tlsServerName to a name that the certificate has, or use such an address", "the certificate of %s is for others: %v", address, wrongName)
	case errors.As(err, &invalid):
		return fail("renew the certificate, and see that clocks agree", "the certificate of %s is not valid: %v", address, invalid)
	case errors.As(err, &untrusted):
		return fail("give the connection a ca, the bundle that issued it", "the certificate of %s is not trusted: %v", address, untrusted.Err)
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return fail("begin the connection's address with http://, or turn on TLS", "%s does not speak TLS", address)
	case strings.Contains(text, "HTTP request to an HTTPS server"):
		return fail("begin the connection's address with https://", "%s speaks TLS alone", address)
	case strings.Contains(text, "tls: certificate required"), strings.Contains(text, "tls: bad certificate"):
		return fail("give the connection a clientCertSecret whose certificate the server trusts", "%s asks for a client certificate: %v", address, cause)
	case errors.As(err, &response), strings.Contains(text, "invalid character"):
		return fail("correct the connection's address", "what answers at %s is no Vault", address)
	case strings.Contains(text, "connection refused"):
		return fail("is Vault running, and is the port right?", "%s does not listen: %v", address, cause)
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "timeout"):
		return fail("is there a way to it from here? See firewalls and NetworkPolicies", "%s does not answer in time", address)
	}
	return fail("is Vault running, and is there a way to it from here?", "%s cannot be reached: %v", address, cause)
}

// clusterName tells whether a name is of the kind that a cluster's DNS serves.
func clusterName(host string) bool {
	return net.ParseIP(host) == nil && (!strings.Contains(host, ".") ||
		strings.HasSuffix(host, ".svc") || strings.Contains(host, ".svc.") || strings.HasSuffix(host, ".cluster.local"))
}
