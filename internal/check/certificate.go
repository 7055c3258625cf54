package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/vaultconn"
)

// servingCertificate looks at what each replica serves where there is a way to
// them, which there is from pods, and else at the Secret it comes from.
func servingCertificate(ctx context.Context, e *env) []Result {
	name := injectorName + "." + e.InjectorNamespace + ".svc"
	if e.inPod && len(e.addresses) > 0 {
		// All at once, since those that do not answer take their time.
		results := make([][]Result, len(e.addresses))
		var wait sync.WaitGroup
		for i, address := range e.addresses {
			wait.Go(func() {
				chain, err := servedAt(ctx, address, name)
				if err != nil {
					results[i] = judgeReplica(ctx, address, err)
					return
				}
				results[i] = e.judgeServing(chain, "the replica at "+address+" serves a certificate", name)
			})
		}
		wait.Wait()
		return slices.Concat(results...)
	}
	secret, isCA := certificateSecret(e.replicas)
	if secret == "" && e.replicasErr != nil {
		return unread(e.replicasErr, "list", "pods in namespace "+e.InjectorNamespace)
	}
	if secret == "" {
		return notChecked("which Secret it is in is not known without the injector's pods")
	}
	where := "Secret " + e.InjectorNamespace + "/" + secret
	found, err := e.kube.CoreV1().Secrets(e.InjectorNamespace).Get(ctx, secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fail("make it: the injector is not ready without one", "there is no %s", where)
	}
	if err != nil {
		return unread(err, "get", "secrets "+secret+" in namespace "+e.InjectorNamespace)
	}
	chain, err := parseCertificates(found.Data[corev1.TLSCertKey])
	if err != nil {
		return fail("put the certificate there", "%s: %s: %v", where, corev1.TLSCertKey, err)
	}
	if _, err := tls.X509KeyPair(found.Data[corev1.TLSCertKey], found.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return fail("put the key there that belongs to the certificate", "%s: %s and %s: %v", where, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, err)
	}
	if isCA {
		return e.judgeServing(chain, where+" holds the CA that the injector keeps", "")
	}
	return e.judgeServing(chain, where+" holds a certificate", name)
}

// judgeReplica says why a replica did not show its certificate. That packets to
// it get lost is often a NetworkPolicy of this pod: the API server takes another
// way.
func judgeReplica(ctx context.Context, address string, err error) []Result {
	var dial *net.OpError
	lost := errors.As(err, &dial) && dial.Op == "dial" &&
		(dial.Timeout() || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH))
	if lost && ctx.Err() == nil {
		r := notChecked("there is no way from this pod to the replica at %s: %v", address, rootCause(err))
		r[0].Remedy = "a NetworkPolicy may want it so; with a kubeconfig the Secret is looked at instead"
		return r
	}
	return fail("see the log of that replica", "the replica at %s is ready and shows no certificate: %v", address, rootCause(err))
}

// servedAt is the chain that a server shows within vaultconn.DialTimeout, whether or not
// it convinces.
func servedAt(ctx context.Context, address, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, vaultconn.DialTimeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: name,
		// Nothing is sent: the certificate is looked at, and judged elsewhere.
		InsecureSkipVerify: true,
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates, nil
}

// certificateSecret is where the injector's pods have their certificate from,
// as their flags say: a certificate, or the CA by which they make their own.
func certificateSecret(pods []corev1.Pod) (secret string, isCA bool) {
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			dir := ""
			for _, arg := range c.Args {
				if name, ok := strings.CutPrefix(arg, "--cert-secret="); ok {
					return name, true
				}
				if d, ok := strings.CutPrefix(arg, "--cert-dir="); ok {
					dir = d
				}
			}
			for _, m := range c.VolumeMounts {
				for _, v := range pod.Spec.Volumes {
					if dir != "" && m.MountPath == dir && v.Name == m.Name && v.Secret != nil {
						return v.Secret.SecretName, false
					}
				}
			}
		}
	}
	return "", false
}

// judgeServing says whether the API server will trust the chain. An empty name
// is not compared: that of a CA is nobody's host.
func (e *env) judgeServing(chain []*x509.Certificate, what, name string) []Result {
	var bundle []byte
	if e.webhook != nil {
		bundle = e.webhook.ClientConfig.CABundle
	}
	err := verifyChain(chain, bundle, name)
	until := stamp(chain[0].NotAfter)
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fail("renew it, and see that clocks agree", "%s that is valid from %s to %s, and now is %s", what, stamp(chain[0].NotBefore), until, stamp(time.Now()))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fail("issue it with the extended key usage server auth", "%s that is not for servers", what)
	case errors.As(err, &wrongName):
		return fail("issue it for "+name, "%s that is not for the name %s", what, name)
	case err != nil:
		return fail(staleBundle+"give it the CA that issued the certificate", "%s, issued by %q, that caBundle does not verify", what, chain[0].Issuer)
	case bundle == nil:
		return ok("%s, valid until %s; whether caBundle verifies it is not known", what, until)
	}
	return ok("%s that caBundle verifies, valid until %s", what, until)
}

// verifyChain verifies a certificate as the API server does, and without a name
// that of a CA. Without a bundle only time, name and usage are looked at.
func verifyChain(chain []*x509.Certificate, bundle []byte, name string) error {
	options := x509.VerifyOptions{
		DNSName:       name,
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name == "" {
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if bundle == nil {
		options.Roots.AddCert(chain[0])
	} else {
		options.Roots.AppendCertsFromPEM(bundle)
	}
	_, err := chain[0].Verify(options)
	return err
}

// parseCertificates reads a PEM bundle, of which other blocks are left out.
func parseCertificates(bundle []byte) (certs []*x509.Certificate, err error) {
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate in PEM")
	}
	return certs, nil
}
