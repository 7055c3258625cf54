package leaks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// The value has what each way of writing it changes.
const value = `it's <a "fixture"> & $5/ü`

func TestSecretIsFoundHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain":         "before" + value + "after",
		"JSON":          asJSON(t, map[string]any{"msg": value}),
		"Go's quotes":   fmt.Sprintf("%q", value),
		"a query":       "https://vault/?password=" + url.QueryEscape(value),
		"a path":        "https://vault/" + url.PathEscape(value),
		"an env file":   `PASSWORD='` + strings.ReplaceAll(value, "'", `'\''`) + `'`,
		"base64 at 0":   base64.StdEncoding.EncodeToString([]byte(value)),
		"base64 at 1":   base64.StdEncoding.EncodeToString([]byte("1" + value + "more")),
		"base64 at 2":   base64.StdEncoding.EncodeToString([]byte("12" + value + "more")),
		"base64 at 3":   base64.RawURLEncoding.EncodeToString([]byte("123" + value + "mo")),
		"a file":        base64.StdEncoding.EncodeToString([]byte(`PASSWORD='` + strings.ReplaceAll(value, "'", `'\''`) + `'`)),
		"second line":   "nothing\n" + value,
		"with a prefix": strings.Repeat("a", 1<<16) + value,
	} {
		s := New()
		if err := s.Add("the fixture", value); err != nil {
			t.Fatal(err)
		}
		line := 1 + strings.Count(text[:max(strings.Index(text, value), 0)], "\n")
		if got, want := s.In(text), []string{fmt.Sprintf("line %d: the fixture", line)}; !slices.Equal(got, want) {
			t.Errorf("%s: found %q, want %q", name, got, want)
		}
	}
}

func TestEachLineOfAKeyIsFound(t *testing.T) {
	t.Parallel()
	s := New()
	if err := s.Add("the key", "-----BEGIN X-----\nMHcCAQEEIPw0\nMHcCAQEEIPw1\n-----END X-----\n"); err != nil {
		t.Fatal(err)
	}
	if got := s.In(`could not parse "MHcCAQEEIPw1"`); !slices.Equal(got, []string{"line 1: the key"}) {
		t.Errorf("found %q", got)
	}
	if got := s.In("-----BEGIN X-----"); got != nil {
		t.Errorf("found %q in what is no secret", got)
	}
}

// Tokens and keys are found without being known.
func TestTokensAreFoundByTheirBeginning(t *testing.T) {
	t.Parallel()
	s := New()
	const token = "hvs.CAESIJ3kP0Zt"
	for text, want := range map[string]string{
		"X-Vault-Token: " + token: "line 1: a Vault token",
		"hvs.short":               "line 1: a Vault token",
		base64.StdEncoding.EncodeToString([]byte(`{"token":"` + token)): "line 1: a Vault token",
		"hvb.AAAAAQJ1":                           "line 1: a Vault token",
		"Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6":    "line 1: a ServiceAccount token",
		"\n-----BEGIN EC PRIVATE KEY-----\nMHcC": "line 2: a private key",
	} {
		if got := s.In(text); !slices.Equal(got, []string{want}) {
			t.Errorf("%.20s…: found %q, want %q", text, got, want)
		}
	}
	if got := s.In("the token's accessor is 5f0c2a, its ttl 1h"); got != nil {
		t.Errorf("found %q where there is nothing", got)
	}
}

func TestShortValueIsRefused(t *testing.T) {
	t.Parallel()
	s := New()
	if err := s.Add("kv/app PASSWORD", "short"); err == nil || !strings.Contains(err.Error(), "kv/app PASSWORD is too short") {
		t.Errorf("a short value: %v, want it refused by its name", err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
