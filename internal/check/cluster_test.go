package check

import (
	"errors"
	"net"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
)

func TestAPIServerVersion(t *testing.T) {
	for got, c := range map[string]struct {
		want string
		kept bool
	}{
		"v1.36.3":         {"ok    : Kubernetes v1.36.3 at https://api\n", true},
		"v1.29.0-eks-abc": {"ok ", true},
		"v1.30.1-gke.5":   {"ok ", true},
		"v1.28.15":        {"FAIL  : Kubernetes v1.28.15 at https://api is too old (upgrade it to 1.29 or newer", false},
		"":                {"FAIL  : https://api answers with version \"\" (is it a Kubernetes API server?)\n", false},
	} {
		kube := fake.NewClientset()
		kube.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: got}
		e := &env{}
		want(t, got, e.connect(t.Context(), kube, "https://api"), c.want)
		if (e.kube != nil) != c.kept {
			t.Errorf("%s: the client is kept: %t", got, e.kube != nil)
		}
	}
}

func TestJudgeServer(t *testing.T) {
	get := func(err error) error { return &url.Error{Op: "Get", URL: "https://api/version", Err: err} }
	dial := func(err error) error { return get(&net.OpError{Op: "dial", Net: "tcp", Err: err}) }
	for _, c := range []struct {
		err  error
		want string
	}{
		{apierrors.NewUnauthorized("Unauthorized"), "FAIL  : https://api does not accept these credentials (log in to the cluster again)\n"},
		{dial(&net.DNSError{Name: "api", Err: "no such host"}), "FAIL  : the name \"api\" does not resolve (correct the kubeconfig's server"},
		{get(errors.New("tls: failed to verify certificate: x509: certificate signed by unknown authority")), "FAIL  : the certificate of https://api is not trusted: tls: failed to verify certificate: x509: certificate signed by unknown authority (correct the kubeconfig's certificate-authority-data)\n"},
		{dial(errors.New("connect: connection refused")), "FAIL  : https://api does not answer: dial tcp: connect: connection refused (is the cluster up"},
	} {
		want(t, c.err.Error(), judgeServer("https://api", c.err), c.want)
	}
}
