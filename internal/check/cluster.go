package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// oldest is the first Kubernetes with native sidecars turned on.
const oldest = "1.29.0"

// inPod tells whether this process runs in a pod: the kubelet sets the variable
// in every container.
func inPod() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// ownNamespace is the injector's where this runs in its pod: the chart sets the
// variable there. Another pod's own namespace would say nothing of the injector.
func ownNamespace() string {
	if inPod() {
		return or(os.Getenv("POD_NAMESPACE"), usualNamespace)
	}
	return usualNamespace
}

func apiServer(ctx context.Context, e *env) []Result {
	config, err := e.restConfig()
	switch {
	case clientcmd.IsEmptyConfig(err) && e.inPod:
		r := notChecked("this pod has no ServiceAccount token")
		r[0].Remedy = "the chart's check.rbac gives it one; with a kubeconfig this runs anywhere"
		return r
	case clientcmd.IsEmptyConfig(err):
		return fail("set KUBECONFIG, or give --kubeconfig", "there is no kubeconfig")
	case err != nil:
		return fail("correct --kubeconfig or --context", "%v", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fail("correct the kubeconfig", "%v", err)
	}
	client.Transport = punctual{client.Transport}
	kube, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return fail("correct the kubeconfig", "%v", err)
	}
	results := e.connect(ctx, kube, config.Host)
	if plugin := config.ExecProvider; plugin != nil && results[0].Status == Failed {
		results[0].Remedy += fmt.Sprintf("; does the credential plugin %s work, or wait for a login? Try kubectl version", plugin.Command)
	}
	return results
}

// punctual returns when the request's time is over. A credential plugin runs
// inside of a request, and does not look at the time: client-go waits for it.
type punctual struct{ next http.RoundTripper }

func (p punctual) RoundTrip(r *http.Request) (*http.Response, error) {
	type answer struct {
		response *http.Response
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		response, err := p.next.RoundTrip(r)
		answered <- answer{response, err}
	}()
	select {
	case a := <-answered:
		return a.response, a.err
	case <-r.Context().Done():
		go func() {
			if a := <-answered; a.err == nil {
				a.response.Body.Close()
			}
		}()
		return nil, r.Context().Err()
	}
}

func (e *env) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = e.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: e.Context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = "latchkey-check"
	config.Timeout = callTimeout
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// connect keeps the client if the API server answers.
func (e *env) connect(ctx context.Context, kube kubernetes.Interface, host string) []Result {
	info, err := discovery.ToServerVersionInterfaceWithContext(kube.Discovery()).ServerVersionWithContext(ctx)
	if apierrors.IsForbidden(err) {
		e.kube, e.server = kube, host
		return notChecked("you may not get /version of %s", host)
	}
	if err != nil {
		return judgeServer(host, err)
	}
	now, err := version.ParseGeneric(info.GitVersion)
	switch {
	case err != nil:
		return fail("is it a Kubernetes API server?", "%s answers with version %q", host, info.GitVersion)
	case now.LessThan(version.MustParseGeneric(oldest)):
		return fail("upgrade it to 1.29 or newer, which has native sidecars", "Kubernetes %s at %s is too old", info.GitVersion, host)
	}
	e.kube, e.server = kube, host
	return ok("Kubernetes %s at %s", info.GitVersion, host)
}

// judgeServer says why the API server did not answer.
func judgeServer(host string, err error) []Result {
	var dns *net.DNSError
	switch {
	case apierrors.IsUnauthorized(err):
		return fail("log in to the cluster again", "%s does not accept these credentials", host)
	case errors.As(err, &dns):
		return fail("correct the kubeconfig's server, or connect to the network that knows the name", "the name %q does not resolve", dns.Name)
	case strings.Contains(err.Error(), "x509: "):
		return fail("correct the kubeconfig's certificate-authority-data", "the certificate of %s is not trusted: %v", host, rootCause(err))
	}
	return fail("is the cluster up, and is there a way to it from here?", "%s does not answer: %v", host, rootCause(err))
}

// rootCause is an error without what was called and for whom.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		var op *net.OpError
		if next == nil || errors.As(err, &op) && !errors.As(next, &op) {
			return err
		}
		err = next
	}
}

// unread says why the API server did not do what every cluster can. Only the
// lack of a permission leaves it open whether all is well.
func unread(err error, verb, resource string) []Result {
	switch {
	case apierrors.IsForbidden(err):
		return notChecked("you may not %s %s", verb, resource)
	case apierrors.IsUnauthorized(err):
		return fail("log in to the cluster again", "the API server no longer accepts these credentials to %s %s", verb, resource)
	}
	return fail("is the API server well, and the way to it? kubectl get --raw '/readyz?verbose'", "the API server could not %s %s: %v", verb, resource, rootCause(err))
}
