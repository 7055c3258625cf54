package integration

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const issueCall = "update pki/issue/app"

// pki starts a CA whose certificates live for a time.
func pki(t *testing.T, life time.Duration, leased bool) (*vaulttest.Vault, *vaulttest.Agent) {
	t.Helper()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Mount("pki", "pki", api.MountConfigInput{MaxLeaseTTL: "24h"})
	v.Write("pki/root/generate/internal", map[string]any{"common_name": "test root", "ttl": "24h", "key_type": "ec", "key_bits": 256})
	v.Write("pki/roles/app", map[string]any{
		"allowed_domains": "shop.svc", "allow_subdomains": true, "ttl": life.String(), "max_ttl": "24h",
		"key_type": "ec", "key_bits": 256, "generate_lease": leased,
	})
	v.Role("app", vaulttest.Read("pki/issue/app"), nil)
	return v, v.Agent("app", config.File{
		Path: "tls", Secret: "pki/issue/app", Data: map[string]any{"common_name": "app.shop.svc"},
		Files: map[string]string{"tls.crt": "certificate", "tls.key": "private_key", "ca.crt": "issuing_ca"},
	})
}

// certificate reads the files as a server does that starts now: all of one answer.
func certificate(v *vaulttest.Vault, a *vaulttest.Agent) (*x509.Certificate, error) {
	// The directory behind the symlink is one publication.
	cert, err := a.File("tls/tls.crt")
	if err != nil {
		return nil, err
	}
	key, err := a.File("tls/tls.key")
	if err != nil {
		return nil, err
	}
	if again, _ := a.File("tls/tls.crt"); again != cert {
		return certificate(v, a) // replaced while it was read
	}
	v.Secret(key)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return nil, err
	}
	ca, err := a.File("tls/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "app.shop.svc"}); err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// testRenewal: one certificate for all three files, replaced before its end,
// and kept by a container that starts again.
func testRenewal(t *testing.T, leased bool) {
	t.Parallel()
	v, a := pki(t, 30*time.Second, leased)
	a.Start()
	a.WaitReady()
	first, err := certificate(v, a)
	if err != nil {
		t.Fatal(err)
	}
	wantCount(t, v, 1, issueCall)
	for range 2 {
		a.Kill()
		before := len(a.Log())
		a.Start()
		a.WaitLog(before, "token of an earlier run")
	}
	vaulttest.Wait(t, "the third certificate", func() error {
		now, err := certificate(v, a)
		if err != nil {
			t.Fatal(err)
		}
		if now.SerialNumber.Cmp(first.SerialNumber) == 0 && v.Count(issueCall) > 2 {
			return fmt.Errorf("the first certificate is still in the files")
		}
		return atLeast(v, 3, issueCall)
	})
	issued := v.Audit()
	wantCount(t, v, 1, loginCall)
	var times []time.Time
	for _, e := range issued {
		if e.String() == issueCall {
			times = append(times, e.Time)
		}
	}
	// About two thirds of 30 s, or a third before the end of a lease.
	if between := times[1].Sub(times[0]); between < 15*time.Second {
		t.Errorf("the second certificate was issued %s after the first, which lives for 30s", between)
	}
}

func TestCertificate(t *testing.T)       { testRenewal(t, false) }
func TestLeasedCertificate(t *testing.T) { testRenewal(t, true) }
