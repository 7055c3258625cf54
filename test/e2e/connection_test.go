package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// connect gives the pods of a namespace other connections than the suite's: an
// injector with another configuration sees them first, and the installed one
// keeps what that one made.
func connect(t *testing.T, s *harness.Space, config map[string]any) {
	t.Helper()
	addWebhook(t, s, "aa-connections", admissionregistrationv1.NeverReinvocationPolicy, replica(t, config))
}

// A CA that lies in the workload's namespace can rotate while pods run, and one
// that is missing is told by the agent, which goes on as soon as it is there.
func TestCAOfAConnectionRotates(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	vault := func(source string, value map[string]any) map[string]any {
		return map[string]any{"address": suite.VaultAddr, source: value}
	}
	connect(t, s, map[string]any{
		"connections": map[string]any{
			"default": vault("caConfigMap", map[string]any{"name": "vault-ca", "key": "bundle.pem"}),
			"secret":  vault("caSecret", map[string]any{"name": "vault-ca"}),
			"missing": vault("caConfigMap", map[string]any{"name": "comes-later"}),
			"bundle":  vault("clusterTrustBundle", map[string]any{"name": "not-served"}),
		},
		"imagePullSecrets": []any{map[string]any{"name": "platform"}},
	})
	s.Create(indent(0, "apiVersion: v1\nkind: Secret\nmetadata: {name: vault-ca}\nstringData:\n  ca.crt: |\n"+indent(4, string(suite.VaultCA))))
	setCA(s, "vault-ca", "bundle.pem", suite.VaultCA)
	usePullSecret(s, "app", "of-the-account")

	annotations := wants(s.Name) + "latchkey.dev/refresh: 5s\nlatchkey.dev/connection: "
	create := func(name, connection string) {
		s.Create(pod{name: name, annotations: annotations + connection + "\n", script: readFirst + stay}.String())
	}
	create("rotating", "default")
	create("secret", "secret")
	create("missing", "missing")
	create("bundle", "bundle")

	for _, name := range []string{"rotating", "secret"} {
		p := s.WaitPod(name, "ready", harness.Ready)
		wantLog(s, name)
		if got := fmt.Sprint(p.Spec.ImagePullSecrets); got != "[{of-the-account} {platform}]" {
			t.Errorf("%s has the pull secrets %s, want its ServiceAccount's and the operator's", name, got)
		}
	}
	e := s.WaitEvent("Pod", "missing", "Unhealthy", "vault-ca/configmap/comes-later/ca.crt: no such file")
	t.Logf("event: %s", e.Message)
	s.WaitEvent("Pod", "bundle", "Unhealthy", "vault-ca/clustertrustbundle/not-served: no such file")
	setCA(s, "comes-later", "ca.crt", suite.VaultCA)

	// The old CA goes while the pod runs, so that its Vault is a stranger.
	setCA(s, "vault-ca", "bundle.pem", foreignCA())
	hasten(s, "rotating", "at a loss", func(*corev1.Pod) bool {
		return strings.Contains(s.Logs("rotating", "latchkey-agent"), "certificate signed by unknown authority")
	})
	s.Secret("app", map[string]any{"PASSWORD": changed})
	setCA(s, "vault-ca", "bundle.pem", append(foreignCA(), suite.VaultCA...))
	hasten(s, "rotating", "given its new file", func(*corev1.Pod) bool {
		return s.Exec("rotating", "app", "cat", "/vault/secrets/app.env") == changedEnv
	})
	if p := s.WaitPod("rotating", "ready", harness.Ready); harness.Agent(p).RestartCount != 0 {
		t.Errorf("the agent was restarted %d times, want none", harness.Agent(p).RestartCount)
	}

	hasten(s, "missing", "ready", harness.Ready)
}

// setCA stores certificates in a ConfigMap.
func setCA(s *harness.Space, name, key string, certificates []byte) {
	s.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{key: string(certificates)}}
	client := s.Kube.CoreV1().ConfigMaps(s.Name)
	_, err := client.Update(s.Context(), m, metav1.UpdateOptions{})
	if err != nil {
		_, err = client.Create(s.Context(), m, metav1.CreateOptions{})
	}
	if err != nil {
		s.Fatalf("storing ConfigMap %s: %v", name, err)
	}
}

// usePullSecret makes a ServiceAccount name a Secret for its pods' images.
func usePullSecret(s *harness.Space, account, secret string) {
	s.Helper()
	patch := fmt.Appendf(nil, `{"imagePullSecrets":[{"name":%q}]}`, secret)
	if _, err := s.Kube.CoreV1().ServiceAccounts(s.Name).Patch(s.Context(), account, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		s.Fatalf("patching ServiceAccount %s: %v", account, err)
	}
}

// hasten waits for what follows from a changed object of a pod's volumes. The
// kubelet looks at them at once when the pod changes, and else within a minute.
func hasten(s *harness.Space, name, what string, done func(*corev1.Pod) bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), harness.Patience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/touched":%q}}}`, time.Now())
		p, err := s.Kube.CoreV1().Pods(s.Name).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil && done(p) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("waiting for pod %s to be %s: %v", name, what, err)
		}
	}
}

// The agent tells that its certificate is missing, and shows it once it is
// there; it sends the headers that its connection names, and checks Vault by the
// name that it states.
func TestConnectionWithAClientCertificate(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	const name = "vault.front.example"
	client, key, err := suite.IssueServing("agents.example")
	if err != nil {
		t.Fatal(err)
	}
	connect(t, s, map[string]any{"connections": map[string]any{"default": map[string]any{
		"address":          vaultFront(t, name, "agents.example", "X-Team", "shop"),
		"ca":               string(suite.CA()),
		"tlsServerName":    name,
		"clientCertSecret": map[string]any{"name": "vault-client"},
		"headers":          map[string]any{"X-Team": "shop"},
		"timeout":          "5s",
	}}})
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	e := s.WaitEvent("Pod", "app", "Unhealthy", "vault-client/secret/vault-client/tls.crt: no such file")
	t.Logf("event: %s", e.Message)

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "vault-client"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: client, corev1.TLSPrivateKeyKey: key}}
	if _, err := s.Kube.CoreV1().Secrets(s.Name).Create(s.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	hasten(s, "app", "ready", harness.Ready)
	wantLog(s, "app")
}

// vaultFront leads to Vault those who show a certificate of a name and send a
// header. Its own certificate is for serverName alone.
func vaultFront(t *testing.T, serverName, clientName, header, value string) (address string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(suite.VaultCA)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: cluster.VaultIP + ":8200"})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return "https://" + serveTLS(t, serverName, &tls.Config{ClientAuth: tls.RequireAnyClientCert},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown := r.TLS.PeerCertificates[0]
			if err := shown.VerifyHostname(clientName); err != nil || r.Header.Get(header) != value {
				http.Error(w, fmt.Sprintf("a stranger (%v)", err), http.StatusForbidden)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
}

// serveTLS serves on the node's address, with a certificate for a name, until
// the test ends.
func serveTLS(t *testing.T, name string, config *tls.Config, handler http.Handler) (address string) {
	t.Helper()
	cert, key, err := suite.IssueServing(name)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	listener, err := tls.Listen("tcp", cluster.NodeIP+":0", config)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return listener.Addr().String()
}
