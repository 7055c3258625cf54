package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// A trust shakes hands with every replica again and again, trusting what the
// webhook configuration says: the API server makes new connections rarely, and
// one that fails shows only where it makes one.
type trust struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}

	mu         sync.Mutex
	leaves     map[string]*x509.Certificate // by the pod's name, of the present ones
	handshakes int
	broken     []string
}

func watchTrust(t *testing.T) *trust {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &trust{t: t, stop: cancel, done: make(chan struct{}), leaves: map[string]*x509.Certificate{}}
	t.Cleanup(func() { cancel(); <-w.done })
	go func() {
		defer close(w.done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := w.look(ctx); err != nil && ctx.Err() == nil {
				w.mu.Lock()
				w.broken = append(w.broken, err.Error())
				w.mu.Unlock()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return w
}

// look shakes hands once with each replica.
func (w *trust) look(ctx context.Context) error {
	// Before the handshakes: what is trusted later is of no use now.
	hook, err := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(hook.Webhooks[0].ClientConfig.CABundle)
	pods, err := suite.Kube.CoreV1().Pods(harness.InstallNamespace).List(ctx, metav1.ListOptions{LabelSelector: selectInjector})
	if err != nil {
		return err
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		RootCAs: roots, ServerName: harness.InjectorName + "." + harness.InstallNamespace + ".svc",
	}}
	present := map[string]*x509.Certificate{}
	for _, p := range pods.Items {
		if !harness.Ready(&p) || p.DeletionTimestamp != nil {
			continue
		}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(p.Status.PodIP, "8443"))
		if unverified := new(tls.CertificateVerificationError); errors.As(err, &unverified) {
			return fmt.Errorf("%s serves a certificate that the webhook configuration does not trust: %w", p.Name, err)
		}
		if err != nil {
			continue // the replica has just gone
		}
		present[p.Name] = conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		conn.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaves, w.handshakes = present, w.handshakes+len(present)
	return nil
}

func (w *trust) now() map[string]*x509.Certificate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leaves
}

// failed is the first handshake that failed, if one did.
func (w *trust) failed() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) == 0 {
		return ""
	}
	return w.broken[0]
}

// waitReplicas waits until n replicas serve and returns their certificates.
func (w *trust) waitReplicas(n int) map[string]*x509.Certificate {
	w.t.Helper()
	poll(w.t, fmt.Sprintf("%d replicas that serve", n), func() bool { return len(w.now()) == n })
	return w.now()
}

// waitRotated waits until every replica serves another certificate than before,
// of another CA if newCA is set, and returns them.
func (w *trust) waitRotated(before map[string]*x509.Certificate, newCA bool) map[string]*x509.Certificate {
	w.t.Helper()
	start := time.Now()
	// The kubelet brings a changed Secret into a pod within a minute or two,
	// and at once where the pod has changed. There one of another CA rests for a
	// minute.
	kubectl(w.t, "annotate", "pod", "--overwrite", "-l", selectInjector, "latchkey.test/renewed="+start.Format("150405.000"))
	poll(w.t, "every replica to serve a new certificate", func() bool {
		if broken := w.failed(); broken != "" {
			w.t.Fatal(broken)
		}
		rotated := 0
		for name, leaf := range w.now() {
			old := before[name]
			if old == nil {
				w.t.Fatalf("pod %s is new: no replica was to be restarted", name)
			}
			if !leaf.Equal(old) && (!newCA || string(leaf.AuthorityKeyId) != string(old.AuthorityKeyId)) {
				rotated++
			}
		}
		return rotated == len(before)
	})
	w.t.Logf("every replica serves a new certificate after %.1f s (of a new CA: %t)", time.Since(start).Seconds(), newCA)
	return w.now()
}

// end reports every handshake that failed.
func (w *trust) end() {
	w.t.Helper()
	w.stop()
	<-w.done
	if broken := w.failed(); broken != "" {
		w.t.Error(broken)
	}
	w.t.Logf("%d handshakes with the replicas that the webhook configuration trusts, %d that failed", w.handshakes, len(w.broken))
}

// An authority is a CA that somebody keeps by hand.
type authority struct {
	pem  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func makeCA(t *testing.T, name string) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pem: encode("CERTIFICATE", der), cert: cert, key: key}
}

// storeServing puts a serving certificate of a CA into the Secret my-own.
func storeServing(t *testing.T, ca authority) {
	t.Helper()
	key := newKey(t)
	name := harness.InjectorName + "." + harness.InstallNamespace + ".svc"
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	secret := corev1apply.Secret("my-own", harness.InstallNamespace).WithType(corev1.SecretTypeTLS).
		WithStringData(map[string]string{"tls.crt": encode("CERTIFICATE", der), "tls.key": encode("PRIVATE KEY", keyDER)})
	if _, err := suite.Kube.CoreV1().Secrets(harness.InstallNamespace).Apply(t.Context(), secret, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// setUpPKI does what deploy/certs/vault/setup.sh says, line by line, without
// the program that it calls.
func setUpPKI(t *testing.T) {
	t.Helper()
	script, err := os.ReadFile(certsFile("vault", "setup.sh"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) {
		t.Helper()
		if _, err := suite.Root.Logical().WriteWithContext(t.Context(), path, data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			// What a mount holds goes with it.
			if strings.HasPrefix(path, "pki-latchkey/") {
				return
			}
			if _, err := suite.Root.Logical().Delete(path); err != nil {
				t.Error(err)
			}
		})
	}
	for line := range strings.Lines(strings.ReplaceAll(string(script), "\\\n", " ")) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "vault" {
			continue
		}
		switch command := strings.Join(words[1:3], " "); {
		case command == "secrets enable":
			path, life := strings.TrimPrefix(words[3], "-path="), strings.TrimPrefix(words[4], "-max-lease-ttl=")
			write("sys/mounts/"+path, map[string]any{"type": words[5], "config": map[string]any{"max_lease_ttl": life}})
		case command == "policy write":
			policy, err := os.ReadFile(certsFile("vault", words[4]))
			if err != nil {
				t.Fatal(err)
			}
			write("sys/policies/acl/"+words[3], map[string]any{"policy": string(policy)})
		case words[1] == "write":
			data := map[string]any{}
			for _, pair := range words[3:] {
				key, value, _ := strings.Cut(pair, "=")
				data[key] = value
			}
			write(words[2], data)
		default:
			t.Fatalf("setup.sh has a command that this test does not know: %s", line)
		}
	}
}
