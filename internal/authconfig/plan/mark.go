package plan

import (
	"maps"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

const (
	caField = "kubernetes_ca_cert"
	comment = "# Reviewer token: "
)

// Marked is a config that tells which reviewer token is written with it, as a
// comment before the CA's certificates. The token itself can never be read: without
// the comment nobody could see that Vault was restored from an older snapshot, or
// that somebody wrote another token, until logins are refused.
func Marked(config desired.Fields, token string) desired.Fields {
	ca, _ := config[caField].(string)
	if token == "" || ca == "" {
		return config
	}
	config = maps.Clone(config)
	config[caField] = comment + token + "\n" + ca
	return config
}

// Mark is what Marked told in a config as Vault answers it; empty is nothing.
func Mark(config map[string]any) string {
	ca, _ := config[caField].(string)
	line, _, _ := strings.Cut(ca, "\n")
	token, found := strings.CutPrefix(line, comment)
	if !found {
		return ""
	}
	return token
}
