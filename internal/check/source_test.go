package check

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// The CA and the client certificate of a connection lie in objects, which are
// read as an agent would get them.
func TestConnectionWithObjects(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	client := other.serving(t, nil)
	server := httptest.NewUnstartedServer(answers{"GET /v1/sys/health": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Team") != "shop" {
			t.Error("asked without the connection's header")
		}
		says(200, healthy)(w, r)
	}}.handler(t))
	clients := x509.NewCertPool()
	clients.AddCert(other.cert)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.serving(t, []string{"vault"})}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)

	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	objects := []runtime.Object{
		&corev1.ConfigMap{ObjectMeta: meta("ca"), Data: map[string]string{"ca.crt": string(ca.pem()), "none": "text"}},
		&corev1.Secret{ObjectMeta: meta("ca"), Data: map[string][]byte{"ca.crt": ca.pem()}},
		&corev1.Secret{ObjectMeta: meta("client"), Type: corev1.SecretTypeTLS, Data: map[string][]byte{
			"tls.crt": toPEM(client.Leaf), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}},
		&certificatesv1beta1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "vault"}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{TrustBundle: string(ca.pem())}},
	}
	served := []*metav1.APIResourceList{
		{GroupVersion: "certificates.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "certificatesigningrequests"}}},
		{GroupVersion: "certificates.k8s.io/v1beta1", APIResources: []metav1.APIResource{{Name: "clustertrustbundles"}}},
	}
	const mtls = ", clientCertSecret: {name: client}"
	for _, c := range []struct {
		name, extra, namespace string
		served                 []*metav1.APIResourceList
		want                   string
	}{
		{"ConfigMap", "caConfigMap: {name: ca}" + mtls, "shop", served, "ok    connection default: Vault 1.21.0"},
		{"Secret", "caSecret: {name: ca}" + mtls, "shop", served, "ok "},
		{"bundle", "clusterTrustBundle: {name: vault}" + mtls, "shop", served, "ok "},
		{"no client certificate", "caSecret: {name: ca}", "shop", served, "FAIL  connection default: " + server.URL + " asks for a client certificate"},
		{"no namespace", "caConfigMap: {name: ca}", "", served, "-     connection default: not checked: it needs the ConfigMap ca of each workload's namespace (--namespace names a workload's)\n"},
		{"other namespace", "caConfigMap: {name: ca}", "other", served, "FAIL  connection default: there is no ConfigMap other/ca (make it in every namespace whose pods use the connection)\n"},
		{"no key", "caConfigMap: {name: ca, key: x.crt}", "shop", served, "FAIL  connection default: the ConfigMap shop/ca has no key x.crt"},
		{"no certificate", "caConfigMap: {name: ca, key: none}", "shop", served, "FAIL  connection default: its CA in ConfigMap shop/ca: holds no certificate"},
		{"no key pair", "caSecret: {name: ca}, clientCertSecret: {name: ca}", "shop", served, "FAIL  connection default: the Secret shop/ca has no key tls.crt"},
		{"no such bundle", "clusterTrustBundle: {name: nope}", "shop", served, "FAIL  connection default: there is no such ClusterTrustBundle nope"},
		{"bundles not served", "clusterTrustBundle: {name: vault}", "shop", served[:1], "FAIL  connection default: the cluster has no ClusterTrustBundles, so that its pods silently get no CA"},
		{"proxy", "caSecret: {name: ca}, proxy: \"http://127.0.0.1:1\"", "shop", served, "FAIL  connection default: the proxy of " + server.URL + " cannot be reached"},
	} {
		have := objects
		if strings.Contains(c.extra, "nope") {
			have = objects[:3] // the fake does not select by name
		}
		kube := fake.NewClientset(have...)
		kube.Resources = c.served
		file := filepath.Join(t.TempDir(), "config.yaml")
		text := "connections: {default: {address: \"" + server.URL + "\", tlsServerName: vault, headers: {X-Team: shop}, " + c.extra + "}}"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		e := &env{kube: kube, vaults: make(map[string]*vault), Options: Options{ConfigFile: file, Namespace: c.namespace}}
		want(t, c.name, configuration(t.Context(), e), "ok ")
		want(t, c.name, connections(t.Context(), e), c.want)
	}
}
