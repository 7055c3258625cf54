package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// testCA is a CA that tests sign with.
type testCA struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newCA(t testing.TB, from time.Time, life time.Duration) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "latchkey-injector-ca"}, NotBefore: from, NotAfter: from.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.Certificate = ca.sign(t, template, template, key.Public())
	return ca
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (ca *testCA) sign(t testing.TB, template, parent *x509.Certificate, key any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (ca *testCA) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
}

func TestNextBundle(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	const week = 7 * 24 * time.Hour
	old, current := newCA(t, now.Add(-10*week), 52*week), newCA(t, now.Add(-time.Second), 52*week)
	expired := newCA(t, now.Add(-52*week), 51*week)
	until := func(s string) string { return "# Trusted until " + s + "\n" }
	// A week, and the minute in which a replica may sign with the old CA still.
	end := until("2030-02-07T12:01:00Z")
	for _, c := range []struct{ name, have, want string }{
		{"nothing yet", "", current.pem()},
		{"as it should be", current.pem(), current.pem()},
		{"a new CA", old.pem(), current.pem() + end + old.pem()},
		{"the time of the old one stays", current.pem() + until("2030-02-01T00:00:00Z") + old.pem(), current.pem() + until("2030-02-01T00:00:00Z") + old.pem()},
		{"the time of the old one has come", current.pem() + until("2030-01-31T12:00:00Z") + old.pem(), current.pem()},
		{"the time is no time", until("tomorrow") + old.pem(), current.pem() + end + old.pem()},
		{"an expired one", expired.pem() + current.pem(), current.pem()},
		{"an old one is back", current.pem() + until("2030-02-01T00:00:00Z") + current.pem(), current.pem()},
		{"the CA was marked, and signs again", until("2030-02-01T00:00:00Z") + current.pem(), current.pem()},
		{"twice the same", current.pem() + old.pem() + old.pem(), current.pem() + end + old.pem()},
		{"no PEM", "caBundle", current.pem()},
		{"no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + old.pem(), current.pem() + end + old.pem()},
		{"a key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), current.pem()},
		{"text between", "our CA:\n" + current.pem() + "\nthat is all", current.pem()},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := nextBundle(now, []byte(c.have), current.Certificate, week)
			if string(got) != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			// Written by one replica, it is what each other wants a second later.
			if again := nextBundle(now.Add(time.Second), got, current.Certificate, week); !bytes.Equal(again, got) {
				t.Errorf("then\n%s\nafter\n%s", again, got)
			}
			// Whoever reads PEM takes it.
			if !x509.NewCertPool().AppendCertsFromPEM(got) || strings.Count(string(got), "BEGIN") != len(parseBundle(got)) {
				t.Error("no PEM")
			}
		})
	}
}
