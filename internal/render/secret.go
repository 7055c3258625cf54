package render

import (
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// View is what a template sees of a secret, under the names that Vault Agent
// gives its fields.
type View struct {
	RequestID     string
	LeaseID       string
	LeaseDuration int // seconds
	Renewable     bool
	Data          map[string]any
	Warnings      []string
}

// Secret is one answer of Vault. It prints as a placeholder.
type Secret struct {
	sealed.Value[*View]
	kv2 bool
}

// NewSecret seals an answer. On a KV v2 mount (kv2) the secret's own data lies
// one level down, where the formats look for it; templates see the answer as
// it is. Numbers must be json.Number, so that none loses a digit.
func NewSecret(v View, kv2 bool) *Secret { return &Secret{sealed.Of(&v), kv2} }

// data returns what the secret's owner stored.
func (s *Secret) data() map[string]any {
	d := s.Reveal().Data
	if s.kv2 {
		d, _ = d["data"].(map[string]any)
	}
	return d
}
