package mutate

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// tokenForm is what the token-file annotation holds, in a few words.
const tokenForm = "a path such as \"vault-token\", or YAML {path, format, mode, ca, wrapTTL}"

var tokenKeys = []key[config.TokenFile]{
	{"path", "string", "Where the token lies below the mount path.", func(t *config.TokenFile) any { return &t.Path }},
	{"format", "raw or json", "The token alone, or `{clientToken, accessor, leaseDuration, renewable, vaultAddr}`; raw without it. With `wrapTTL`: the wrapping token alone, or what Vault says of it.", func(t *config.TokenFile) any { return &t.Format }},
	{"mode", "quoted octal number", "The file's permission bits. Without it the tightest that the containers can read.", func(t *config.TokenFile) any { return &t.Mode }},
	{"ca", "true or false", "Whether `ca.crt` lies beside it, with the CA that the agent trusts Vault by; not where that is the system's. False without it.", func(t *config.TokenFile) any { return &t.CA }},
	{"wrapTTL", "duration, 10s to 24h", "Publishes a response-wrapping token instead, that lives so long and can be unwrapped once.", func(t *config.TokenFile) any { return &t.WrapTTL }},
}

func setTokenFile(s *Spec, v string) []error {
	node, err := readYAML(v, tokenForm)
	if err != nil {
		return one(err)
	}
	var t config.TokenFile
	switch node.Kind {
	case yaml.ScalarNode:
		t.Path = node.Value
	case yaml.MappingNode:
		if errs := readKeys(node, tokenKeys, &t); len(errs) > 0 {
			return errs
		}
	default:
		return one(fmt.Errorf("is a list (%s)", tokenForm))
	}
	if errs := t.Validate(); len(errs) > 0 {
		return errs
	}
	s.Agent.TokenFile = &t
	return nil
}
