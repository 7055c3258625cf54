package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"testing"
)

func TestServingCertificate(t *testing.T) {
	made, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := made.writeTo(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	ca, err := loadAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.serving("vault.vault.svc", "10.96.0.20")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.pem())
	for name, good := range map[string]bool{"vault.vault.svc": true, "10.96.0.20": true, "vault.other.svc": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		if (err == nil) != good {
			t.Errorf("verifying for %s: got %v, want good %t", name, err, good)
		}
	}
	// One authority signs all: what serves must not authenticate to the API server.
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil {
		t.Error("a serving certificate authenticates a client")
	}
}

func TestClientCertificateNamesUserAndGroup(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.client("system:node:latchkey", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pair.Leaf.Subject.String(), "CN=system:node:latchkey,O=system:nodes"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
