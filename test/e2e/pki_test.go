package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// aCertificate is a pod with a certificate of a PKI of its own, whose life is
// given, in three files.
func aCertificate(t *testing.T, life string) *harness.Space {
	t.Helper()
	s := aSpace(t)
	mount := "pki-" + s.Name
	s.VaultWrite("sys/mounts/"+mount, map[string]any{"type": "pki"})
	t.Cleanup(func() {
		if _, err := s.Root.Logical().Delete("sys/mounts/" + mount); err != nil {
			t.Error(err)
		}
	})
	s.VaultWrite(mount+"/root/generate/internal", map[string]any{"common_name": "test", "key_type": "ec"})
	s.VaultWrite(mount+"/roles/app", map[string]any{"allow_any_name": true, "key_type": "ec", "max_ttl": "1h"})
	s.VaultWrite("sys/policies/acl/"+s.Name, map[string]any{"policy": `path "` + mount + `/issue/app" { capabilities = ["update"] }`})
	s.Create(pod{name: "app", script: "cat /vault/secrets/tls/*; echo" + stay, annotations: filesOf(s,
		"- {path: tls, secret: "+mount+"/issue/app, data: {common_name: app.shop.svc, ttl: "+life+"}, files: {tls.crt: certificate, tls.key: private_key, ca.crt: issuing_ca}}")}.String())
	s.WaitPod("app", "ready", harness.Ready)
	s.WaitLog("app", "app", "-----END EC PRIVATE KEY-----")
	return s
}

// whole reads the three files as they are at one moment, and checks that they
// belong together.
func whole(s *harness.Space) string {
	s.Helper()
	// Whoever has entered the directory sees what was published together.
	text := s.Exec("app", "app", "sh", "-c", "cd /vault/secrets/tls && cat tls.crt && echo && cat tls.key && echo && cat ca.crt")
	s.Keep("a certificate's key", text[strings.Index(text, "-----BEGIN EC PRIVATE KEY-----"):])
	pair, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		s.Fatalf("certificate and key: %v", err)
	}
	var blocks []*pem.Block
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	roots := x509.NewCertPool()
	ca, err := x509.ParseCertificate(blocks[len(blocks)-1].Bytes)
	if err != nil {
		s.Fatalf("the CA: %v", err)
	}
	roots.AddCert(ca)
	leaf := pair.Leaf
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "app.shop.svc"}); err != nil {
		s.Fatalf("the certificate is not the CA's: %v", err)
	}
	return text
}

// issued counts what the PKI was asked for.
func issued(s *harness.Space) int {
	s.Helper()
	return count(s.Audit(), "update pki-"+s.Name+"/issue/app")
}

func restartAgent(s *harness.Space) {
	s.Helper()
	p := s.WaitPod("app", "ready", harness.Ready)
	before := harness.Agent(p).RestartCount
	s.Signal(p, "latchkey-agent", syscall.SIGKILL)
	s.WaitPod("app", "ready with a restarted agent", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return harness.Ready(p) && a.RestartCount == before+1 && a.Ready
	})
}

// A certificate is issued once, and kept over a restart of the agent.
func TestCertificateIsIssuedOnce(t *testing.T) {
	t.Parallel()
	s := aCertificate(t, "30m")
	before := whole(s)
	restartAgent(s)
	if now := whole(s); now != before {
		t.Errorf("certificate, key or CA changed with the agent's restart")
	}
	if n := issued(s); n != 1 {
		t.Errorf("issued %d times, want once", n)
	}
}

// Near its end another one is issued: three files change together, and an agent
// that comes back keeps the new ones.
func TestCertificateChangesWhole(t *testing.T) {
	t.Parallel()
	s := aCertificate(t, "60s")
	first := whole(s)
	var second string
	poll(t, "another certificate", func() bool { second = whole(s); return second != first })
	if n := issued(s); n != 2 {
		t.Errorf("issued %d times until the first change, want twice", n)
	}
	restartAgent(s)
	if now := whole(s); now != second && issued(s) == 2 {
		t.Errorf("certificate, key or CA changed with the agent's restart")
	}
}

func count(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}
