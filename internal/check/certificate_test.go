package check

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// authority is a CA of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func until(end time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = end }
}

func newAuthority(t *testing.T, name string, change ...func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign(t, template, change...)
	return a
}

// sign signs a certificate; without a certificate of its own, by itself.
func (a *authority) sign(t *testing.T, template *x509.Certificate, change ...func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
	for _, c := range change {
		c(template)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte { return toPEM(a.cert) }

func toPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// serving is a server's certificate for some names.
func (a *authority) serving(t *testing.T, names []string, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: names}, change...)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

const serviceName = "latchkey-injector.latchkey.svc"

func TestServingCertificateFromItsSecret(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	replica := corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "injector", Args: []string{"serve", "--cert-dir=/etc/latchkey/tls"},
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/latchkey/config"}, {Name: "tls", MountPath: "/etc/latchkey/tls"}}}},
		Volumes: []corev1.Volume{{Name: "config"}, {Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "serving"}}}},
	}}
	keeper := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Args: []string{"serve", "--cert-secret=ca"}}}}}
	secret := func(name string, c tls.Certificate) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "latchkey", Name: name}, Data: map[string][]byte{"tls.crt": toPEM(c.Leaf), "tls.key": keyPEM(t, c.PrivateKey)}}
	}
	caPair := tls.Certificate{Leaf: ca.cert, PrivateKey: ca.key}
	forClients := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	forServers := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	otherKey := ca.serving(t, []string{serviceName})
	otherKey.PrivateKey = other.key
	for _, c := range []struct {
		name    string
		secret  *corev1.Secret
		replica corev1.Pod
		bundle  []byte
		want    string
	}{
		{"good", secret("serving", ca.serving(t, []string{serviceName})), replica, ca.pem(), "ok    : Secret latchkey/serving holds a certificate that caBundle verifies, valid until "},
		{"good beside others", secret("serving", ca.serving(t, []string{serviceName})), replica, append(other.pem(), ca.pem()...), "ok "},
		{"stale", secret("serving", ca.serving(t, []string{serviceName})), replica, other.pem(), `FAIL  : Secret latchkey/serving holds a certificate, issued by "CN=ca", that caBundle does not verify (caBundle in the webhook configuration is not the CA`},
		{"expired", secret("serving", ca.serving(t, []string{serviceName}, until(time.Now().Add(-time.Hour)))), replica, ca.pem(), "FAIL  : Secret latchkey/serving holds a certificate that is valid from "},
		{"wrong name", secret("serving", ca.serving(t, []string{"other"})), replica, ca.pem(), "FAIL  : Secret latchkey/serving holds a certificate that is not for the name latchkey-injector.latchkey.svc (issue it for"},
		{"for servers", secret("serving", ca.serving(t, []string{serviceName}, forServers)), replica, ca.pem(), "ok "},
		{"for clients", secret("serving", ca.serving(t, []string{serviceName}, forClients)), replica, ca.pem(), "FAIL  : Secret latchkey/serving holds a certificate that is not for servers (issue it with the extended key usage server auth)\n"},
		{"other key", secret("serving", otherKey), replica, ca.pem(), "FAIL  : Secret latchkey/serving: tls.crt and tls.key: tls: private key does not match public key (put the key there"},
		{"own CA", secret("ca", caPair), keeper, ca.pem(), "ok    : Secret latchkey/ca holds the CA that the injector keeps that caBundle verifies"},
		{"own CA, stale", secret("ca", caPair), keeper, other.pem(), "FAIL  : Secret latchkey/ca holds the CA that the injector keeps, issued by"},
		{"no Secret", secret("other", caPair), replica, ca.pem(), "FAIL  : there is no Secret latchkey/serving (make it"},
		{"no pods", secret("serving", caPair), corev1.Pod{}, ca.pem(), "-     : not checked: which Secret it is in is not known"},
	} {
		e := &env{kube: fake.NewClientset(c.secret), replicas: []corev1.Pod{c.replica}, webhook: &installed(c.bundle).Webhooks[0], Options: Options{InjectorNamespace: "latchkey"}}
		want(t, c.name, servingCertificate(t.Context(), e), c.want)
	}
	e := &env{kube: fake.NewClientset(secret("serving", ca.serving(t, []string{serviceName}))), replicas: []corev1.Pod{replica}, Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "unknown bundle", servingCertificate(t.Context(), e), "ok    : Secret latchkey/serving holds a certificate, valid until ", "whether caBundle verifies it is not known")
}

func keyPEM(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// A replica that listens and never answers is at fault, and does not keep
// others waiting. What gets lost on the way is not known.
func TestReplicasThatDoNotAnswer(t *testing.T) {
	// Each shows itself only once all have been called.
	const replicas = 3
	ca := newAuthority(t, "ca")
	var called sync.WaitGroup
	called.Add(replicas)
	e := &env{kube: fake.NewClientset(), inPod: true, webhook: &installed(ca.pem()).Webhooks[0], Options: Options{InjectorNamespace: "latchkey"}}
	for range replicas {
		pair := ca.serving(t, []string{serviceName})
		listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			called.Done()
			called.Wait()
			return &pair, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_ = conn.(*tls.Conn).Handshake()
			}
		}()
		e.addresses = append(e.addresses, listener.Addr().String())
	}
	for _, r := range servingCertificate(t.Context(), e) {
		want(t, "all at once", []Result{r}, "ok ")
	}

	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{t.Context(), dial(os.ErrDeadlineExceeded), "-     : not checked: there is no way from this pod to the replica at a:1: "},
		{t.Context(), dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "- "},
		{ended, dial(os.ErrDeadlineExceeded), "FAIL "},
		{t.Context(), dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "FAIL  : the replica at a:1 is ready and shows no certificate: dial tcp: connect: connection refused (see the log of that replica)\n"},
		{t.Context(), context.DeadlineExceeded, "FAIL "}, // in the handshake
	} {
		want(t, c.err.Error(), judgeReplica(c.ctx, "a:1", c.err), c.want)
	}
}

// In a pod each replica is asked for what it serves.
func TestServingCertificateOfReplicas(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	var addresses []string
	for _, a := range []*authority{ca, other} {
		listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.serving(t, []string{serviceName})}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_ = conn.(*tls.Conn).Handshake()
			}
		}()
		addresses = append(addresses, listener.Addr().String())
	}
	e := &env{kube: fake.NewClientset(), inPod: true, addresses: addresses, webhook: &installed(ca.pem()).Webhooks[0], Options: Options{InjectorNamespace: "latchkey"}}
	got := servingCertificate(t.Context(), e)
	want(t, "first", got[:1], "ok    : the replica at "+addresses[0]+" serves a certificate that caBundle verifies")
	want(t, "second", got[1:], "FAIL  : the replica at "+addresses[1]+` serves a certificate, issued by "CN=other", that caBundle does not verify`)
}
