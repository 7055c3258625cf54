package check

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
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

// The injector's own pod knows its namespace, and nobody else does.
func TestInjectorNamespace(t *testing.T) {
	for _, c := range []struct{ host, pod, want string }{
		{"10.0.0.1", "keys", "keys"},
		{"10.0.0.1", "", "latchkey"},
		{"", "keys", "latchkey"},
	} {
		t.Setenv("KUBERNETES_SERVICE_HOST", c.host)
		t.Setenv("POD_NAMESPACE", c.pod)
		var out bytes.Buffer
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/version" {
				says(200, `{"gitVersion":"v1.36.3"}`)(w, r)
				return
			}
			says(403, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)(w, r)
		}))
		defer server.Close()
		_ = Run(t.Context(), Options{Kubeconfig: kubeconfig(t, server.URL, nil), Timeout: time.Minute}, &out)
		if !strings.Contains(out.String(), "you may not list endpointslices in namespace "+c.want+"\n") {
			t.Errorf("%+v:\n%s", c, out.String())
		}
	}
}

// Who may not ask for the version may be allowed all else.
func TestAPIServerHidesItsVersion(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("get", "version", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("no"))
	})
	e := &env{}
	want(t, "forbidden", e.connect(t.Context(), kube, "https://api"), "-     : not checked: you may not get /version of https://api\n")
	if e.kube == nil {
		t.Error("the client is not kept")
	}
}

// Only a permission that is missing leaves open whether all is well.
func TestUnread(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no")), "-     : not checked: you may not list pods\n"},
		{apierrors.NewUnauthorized("Unauthorized"), "FAIL  : the API server no longer accepts these credentials to list pods (log in"},
		{&url.Error{Op: "Get", URL: "https://api/pods", Err: context.DeadlineExceeded}, "FAIL  : the API server could not list pods: context deadline exceeded (is the API server well"},
		{apierrors.NewInternalError(errors.New("etcdserver: no leader")), "FAIL  : the API server could not list pods: Internal error occurred: etcdserver: no leader ("},
		{apierrors.NewTooManyRequests("later", 1), "FAIL "},
	} {
		want(t, c.err.Error(), unread(c.err, "list", "pods"), c.want)
	}
}

// An API server that stops answering after its version is not well.
func TestAPIServerStopsAnswering(t *testing.T) {
	ctx, timeIsOver := context.WithCancel(t.Context())
	defer timeIsOver()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			says(200, `{"gitVersion":"v1.36.3"}`)(w, r)
			return
		}
		timeIsOver()
		<-r.Context().Done()
	}))
	defer server.Close()
	var out bytes.Buffer
	err := Run(ctx, Options{Kubeconfig: kubeconfig(t, server.URL, nil), InjectorNamespace: "latchkey", Timeout: time.Minute}, &out)
	if err == nil || !strings.Contains(out.String(), "\nFAIL  webhook configuration: the API server could not get mutatingwebhookconfigurations latchkey-injector: ") {
		t.Errorf("error %v after\n%s", err, out.String())
	}
}

// A plugin that waits for somebody to log in does not keep the check from
// ending.
func TestCredentialPluginWaits(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	started := filepath.Join(dir, "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(dir, "plugin")
	// It ends once the test does: the pipe is opened and closed.
	if err := os.WriteFile(plugin, []byte("#!/bin/sh\necho > "+started+"\nread never < "+pipe+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, timeIsOver := context.WithCancel(t.Context())
	go func() {
		_, _ = os.ReadFile(started) // until the plugin runs
		timeIsOver()
	}()
	file := kubeconfig(t, "https://127.0.0.1:1", &clientcmdapi.ExecConfig{
		Command: plugin, APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	})
	var out bytes.Buffer
	err := Run(ctx, Options{Kubeconfig: file, InjectorNamespace: "latchkey", Timeout: time.Minute}, &out)
	if err == nil || !strings.HasPrefix(out.String(), "FAIL  API server: https://127.0.0.1:1 does not answer: context canceled (") || !strings.Contains(out.String(), "does the credential plugin "+plugin+" work") {
		t.Errorf("error %v after\n%s", err, out.String())
	}
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

// kubeconfig writes one for a server.
func kubeconfig(t *testing.T, server string, plugin *clientcmdapi.ExecConfig) (file string) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Exec: plugin}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	file = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
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
