package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

// untilMark begins the line before a CA that signs no more. PEM allows text
// between its blocks, and so all there is to remember stays in the bundle.
const untilMark = "# Trusted until "

// changeLag is how long a change of CA takes at most until every replica signs
// with the new one and one of them has put it into the bundle. Both take
// seconds where the API server answers.
const changeLag = time.Minute

// anchor is a certificate of a caBundle.
type anchor struct {
	cert *x509.Certificate
	// until is when it leaves the bundle; zero if nobody has said.
	until time.Time
}

// parseBundle reads a caBundle, leaving out what is no certificate.
func parseBundle(data []byte) []anchor {
	var all []anchor
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return all
		}
		text := data[:len(data)-len(rest)]
		data = rest
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || slices.ContainsFunc(all, func(a anchor) bool { return a.cert.Equal(cert) }) {
			continue
		}
		a := anchor{cert: cert}
		for line := range bytes.Lines(text) {
			if when, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(untilMark)); ok {
				a.until, _ = time.Parse(time.RFC3339, string(when)) // zero is as good as no line
			}
		}
		all = append(all, a)
	}
}

// nextBundle is what has to follow the bundle that there is: the CA that signs
// now, and each other certificate for as long as a leaf of it may be served.
// A CA stops signing at the latest when a replica sees another beside it, and
// its last leaf lives for leafDuration.
//
// The result depends on the arguments alone, and of its own result it makes the
// same again until a certificate's time has come: replicas that write it at
// once agree.
func nextBundle(now time.Time, have []byte, ca *x509.Certificate, leafDuration time.Duration) []byte {
	var out bytes.Buffer
	add := func(c *x509.Certificate) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes all
	}
	add(ca)
	for _, a := range parseBundle(have) {
		if a.until.IsZero() {
			a.until = now.Add(leafDuration + changeLag)
		}
		if a.cert.Equal(ca) || !now.Before(a.until) || now.After(a.cert.NotAfter) {
			continue
		}
		out.WriteString(untilMark + stamp(a.until) + "\n")
		add(a.cert)
	}
	return out.Bytes()
}
