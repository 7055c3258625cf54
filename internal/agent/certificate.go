package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// showCertificate makes the login of method cert. The certificate itself is
// shown by the transport, when the connection is made.
func (a *Agent) showCertificate(c *credential) error {
	v := a.config.Vault
	leaf, err := clientCertificate(v.ClientCert, v.ClientKey)
	if err != nil {
		p := *err
		p.Text = c.doing + ": " + p.Text
		return &p
	}
	c.doing += fmt.Sprintf(" with the client certificate of %q (issuer %q, until %s)",
		vaulterr.OneLine(leaf.Leaf.Subject.String()), vaulterr.OneLine(leaf.Leaf.Issuer.String()), leaf.Leaf.NotAfter.UTC().Format(time.RFC3339))
	data := map[string]any{}
	if v.Auth.Role != "" {
		data["name"] = v.Auth.Role
	}
	c.login = plainLogin("auth/"+v.Auth.MountPath()+"/login", data)
	return nil
}

// clientCertificate reads a pair of files, which others replace.
func clientCertificate(cert, key string) (*tls.Certificate, *Problem) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err == nil && pair.Leaf == nil {
		pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	}
	if err != nil {
		return nil, &Problem{Act: true, Text: fmt.Sprintf("reading the client certificate %s and its key: %v (does what holds them exist in the pod's namespace, and do they belong together?)", cert, err)}
	}
	return &pair, nil
}
