package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The environment variables that carry the configuration. Linux refuses a
// single variable over 128 KiB, so a long one is cut into numbered parts.
const (
	EnvConfig = "LATCHKEY_CONFIG"
	EnvParts  = "LATCHKEY_CONFIG_PARTS"

	maxVariable = 64 << 10 // bytes
)

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// Env encodes the configuration as environment variables: one, or, above
// 64 KiB, only the numbered parts and their count.
func (a *Agent) Env() ([]Variable, error) {
	data, err := a.Encode()
	if err != nil {
		return nil, err
	}
	if len(data) <= maxVariable {
		return []Variable{{EnvConfig, string(data)}}, nil
	}
	parts := split(string(data), maxVariable)
	vars := []Variable{{EnvParts, strconv.Itoa(len(parts))}}
	for i, p := range parts {
		vars = append(vars, Variable{fmt.Sprintf("%s_%d", EnvConfig, i+1), p})
	}
	return vars, nil
}

// split cuts s into pieces of at most size bytes, none of which ends inside a
// character: the API server refuses strings that are not UTF-8.
func split(s string, size int) []string {
	var parts []string
	for len(s) > size {
		end := size
		for !utf8.RuneStart(s[end]) {
			end--
		}
		parts = append(parts, s[:end])
		s = s[end:]
	}
	return append(parts, s)
}

// FromEnv finds the encoded configuration in an environment. It does not
// decode it.
func FromEnv(lookup func(string) (string, bool)) ([]byte, error) {
	whole, haveWhole := lookup(EnvConfig)
	count, haveParts := lookup(EnvParts)
	switch {
	case haveWhole && haveParts:
		return nil, fmt.Errorf("both %s and %s are set (one of them)", EnvConfig, EnvParts)
	case haveWhole:
		return []byte(whole), nil
	case !haveParts:
		return nil, fmt.Errorf("no configuration: %s is not set (the injector sets it; outside a pod use --config FILE)", EnvConfig)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		return nil, fmt.Errorf("%s is %q (a number above 0)", EnvParts, count)
	}
	var b strings.Builder
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("%s_%d", EnvConfig, i)
		part, ok := lookup(name)
		if !ok {
			return nil, fmt.Errorf("%s is missing (%s says that there are %d parts)", name, EnvParts, n)
		}
		b.WriteString(part)
	}
	return []byte(b.String()), nil
}
