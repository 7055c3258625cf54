package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

// trust is what an agent needs to trust a server, and to be trusted by it.
type trust struct {
	ca     []byte // PEM; empty means the system's roots
	client *tls.Certificate
}

// readTrust reads what the connection takes from objects, or says why it
// cannot: an agent would find no file there.
func (e *env) readTrust(ctx context.Context, c *mutate.Connection) (*trust, []Result) {
	found := &trust{ca: []byte(c.Vault.CA)}
	if c.CASource != nil {
		data, problem := e.readSource(ctx, c.CASource)
		if problem != nil {
			return nil, problem
		}
		found.ca = slices.Concat(slices.Collect(maps.Values(data))...)
		if _, err := parseCertificates(found.ca); err != nil {
			return nil, fail("put the bundle there that issued Vault's certificate", "its CA in %s: %v", e.sourceName(c.CASource), err)
		}
	}
	if c.ClientCertSource != nil {
		data, problem := e.readSource(ctx, c.ClientCertSource)
		if problem != nil {
			return nil, problem
		}
		pair, err := tls.X509KeyPair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey])
		if err != nil {
			return nil, fail("put a certificate and its key there", "its client certificate in %s: %v", e.sourceName(c.ClientCertSource), err)
		}
		found.client = &pair
	}
	return found, nil
}

// readSource reads the keys that an agent's volume would have of an object.
func (e *env) readSource(ctx context.Context, p *corev1.VolumeProjection) (map[string][]byte, []Result) {
	name := e.sourceName(p)
	if e.kube == nil {
		return nil, notChecked("there is no API server to ask for %s", name)
	}
	if p.ClusterTrustBundle != nil {
		return e.readTrustBundle(ctx, p.ClusterTrustBundle)
	}
	if e.Namespace == "" {
		r := notChecked("it needs the %s", name)
		r[0].Remedy = "--namespace names a workload's"
		return nil, r
	}
	all := make(map[string][]byte)
	var items []corev1.KeyToPath
	var resource, object string
	var err error
	if source := p.ConfigMap; source != nil {
		resource, object, items = "configmaps", source.Name, source.Items
		var found *corev1.ConfigMap
		if found, err = e.kube.CoreV1().ConfigMaps(e.Namespace).Get(ctx, object, metav1.GetOptions{}); err == nil {
			for key, text := range found.Data {
				all[key] = []byte(text)
			}
			maps.Copy(all, found.BinaryData)
		}
	} else {
		resource, object, items = "secrets", p.Secret.Name, p.Secret.Items
		var found *corev1.Secret
		if found, err = e.kube.CoreV1().Secrets(e.Namespace).Get(ctx, object, metav1.GetOptions{}); err == nil {
			all = found.Data
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, fail("make it in every namespace whose pods use the connection", "there is no %s", name)
	}
	if err != nil {
		return nil, unread(err, "get", resource+" "+object+" in namespace "+e.Namespace)
	}
	data := make(map[string][]byte)
	for _, item := range items {
		if _, ok := all[item.Key]; !ok {
			return nil, fail("put it there, or correct the connection's key", "the %s has no key %s", name, item.Key)
		}
		data[item.Key] = all[item.Key]
	}
	return data, nil
}

// sourceName is what a person calls the object.
func (e *env) sourceName(p *corev1.VolumeProjection) string {
	place := func(name string) string {
		if e.Namespace == "" {
			return name + " of each workload's namespace"
		}
		return e.Namespace + "/" + name
	}
	switch {
	case p.ConfigMap != nil:
		return "ConfigMap " + place(p.ConfigMap.Name)
	case p.Secret != nil:
		return "Secret " + place(p.Secret.Name)
	case p.ClusterTrustBundle.Name != nil:
		return "ClusterTrustBundle " + *p.ClusterTrustBundle.Name
	}
	return "ClusterTrustBundles of signer " + *p.ClusterTrustBundle.SignerName
}

// trustBundleVersions are those of certificates.k8s.io, the newest first.
var trustBundleVersions = []string{"v1", "v1beta1", "v1alpha1"}

// readTrustBundle reads the bundles that the kubelet would write to a file.
func (e *env) readTrustBundle(ctx context.Context, p *corev1.ClusterTrustBundleProjection) (map[string][]byte, []Result) {
	version, err := e.trustBundleVersion(ctx)
	if err != nil {
		return nil, unread(err, "get", "/apis/certificates.k8s.io")
	}
	if version == "" {
		return nil, fail("turn on ClusterTrustBundles in API server and kubelets, or use caConfigMap", "the cluster has no ClusterTrustBundles, so that its pods silently get no CA")
	}
	bundles, err := e.listTrustBundles(ctx, version, p)
	if err != nil {
		return nil, unread(err, "list", "clustertrustbundles")
	}
	if len(bundles) == 0 {
		return nil, fail("make it, or correct the connection's clusterTrustBundle", "there is no such %s", e.sourceName(&corev1.VolumeProjection{ClusterTrustBundle: p}))
	}
	data := make(map[string][]byte)
	for name, text := range bundles {
		data[name] = []byte(text + "\n")
	}
	return data, nil
}

// trustBundleVersion is the newest that is served, or empty.
func (e *env) trustBundleVersion(ctx context.Context) (string, error) {
	resources := discovery.ToServerResourcesInterfaceWithContext(e.kube.Discovery())
	for _, version := range trustBundleVersions {
		list, err := resources.ServerResourcesForGroupVersionWithContext(ctx, "certificates.k8s.io/"+version)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "clustertrustbundles" }) {
			return version, nil
		}
	}
	return "", nil
}

// listTrustBundles returns the bundles by name that a projection selects.
func (e *env) listTrustBundles(ctx context.Context, version string, p *corev1.ClusterTrustBundleProjection) (map[string]string, error) {
	var o metav1.ListOptions
	if p.Name != nil {
		o.FieldSelector = "metadata.name=" + *p.Name
	} else {
		o.FieldSelector = "spec.signerName=" + *p.SignerName
		o.LabelSelector = metav1.FormatLabelSelector(p.LabelSelector)
		if len(p.LabelSelector.MatchLabels)+len(p.LabelSelector.MatchExpressions) == 0 {
			o.LabelSelector = ""
		}
	}
	bundles := make(map[string]string)
	switch version {
	case "v1":
		list, err := e.kube.CertificatesV1().ClusterTrustBundles().List(ctx, o)
		if err != nil {
			return nil, err
		}
		for _, b := range list.Items {
			bundles[b.Name] = b.Spec.TrustBundle
		}
	case "v1beta1":
		list, err := e.kube.CertificatesV1beta1().ClusterTrustBundles().List(ctx, o)
		if err != nil {
			return nil, err
		}
		for _, b := range list.Items {
			bundles[b.Name] = b.Spec.TrustBundle
		}
	default:
		list, err := e.kube.CertificatesV1alpha1().ClusterTrustBundles().List(ctx, o)
		if err != nil {
			return nil, err
		}
		for _, b := range list.Items {
			bundles[b.Name] = b.Spec.TrustBundle
		}
	}
	return bundles, nil
}

// pool is the certificates of a bundle, nil for the system's roots.
func (t *trust) pool() (*x509.CertPool, error) {
	if len(t.ca) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.ca) {
		return nil, errors.New("its ca holds no certificate")
	}
	return pool, nil
}
