package vaulttest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// Secret registers a value that must never show up in what an agent prints, and
// returns it.
func (v *Vault) Secret(value string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.secrets == nil {
		v.secrets = make(map[string]bool)
	}
	v.secrets[value] = true
	return value
}

// secretsOf registers what a published file has of long values. What is in the
// agent's configuration too is no secret.
func (v *Vault) secretsOf(content, config string) {
	var words []string
	var object map[string]any
	if json.Unmarshal([]byte(content), &object) == nil {
		for _, value := range object {
			if s, ok := value.(string); ok {
				words = append(words, s)
			}
		}
	} else {
		words = strings.FieldsFunc(content, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`'"=:,;<>{}`, r) })
	}
	for _, word := range words {
		if len(word) >= 16 && !strings.Contains(word, "-----") && !strings.Contains(config, word) {
			v.Secret(word)
		}
	}
}

// vaultToken is any token that Vault 1.10 and newer makes, or one of an older form.
var vaultToken = regexp.MustCompile(`\bhv[sbr]\.[A-Za-z0-9_-]{20,}|\bs\.[A-Za-z0-9]{24}\b`)

// CheckNoLeak fails the test if a text, such as a log, holds a registered secret
// or a token.
func (v *Vault) CheckNoLeak(what, text string) {
	v.t.Helper()
	for _, leak := range v.leaks(text) {
		v.t.Errorf("a secret is in %s: %s", what, leak)
	}
}

// leaks are the lines of text that hold a registered secret in plain, encoded
// as base64 or in a URL, a Vault token, or a ServiceAccount token or its signature.
func (v *Vault) leaks(text string) []string {
	secrets := []string{v.Root.Token()}
	v.mu.Lock()
	secrets = slices.AppendSeq(secrets, maps.Keys(v.secrets))
	v.mu.Unlock()
	for _, token := range v.Kubernetes.made() {
		parts := strings.Split(token, ".")
		secrets = append(secrets, parts[1], parts[2])
	}
	var forms []string
	for _, s := range secrets {
		forms = append(forms, s, base64.StdEncoding.EncodeToString([]byte(s)), url.QueryEscape(s))
		for line := range strings.Lines(s) { // a log has its values escaped
			if line = strings.TrimSpace(line); len(line) >= 8 && !strings.HasPrefix(line, "-----") {
				forms = append(forms, line)
			}
		}
	}
	var found []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if vaultToken.MatchString(line) {
			found = append(found, line)
			continue
		}
		for _, form := range forms {
			if strings.Contains(line, form) {
				found = append(found, fmt.Sprintf("%q in %s", form, line))
				break
			}
		}
	}
	return found
}

// folder makes the test's folder, which goes with it if all is well.
func folder(t testing.TB) string {
	t.Helper()
	base := filepath.Join(os.TempDir(), "latchkey-integration")
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
			return
		}
		t.Logf("all logs are in %s", dir)
		for _, pattern := range []string{"vault.log", "*/agent.log", "*/postgres.log"} {
			logs, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is right
			for _, log := range logs {
				if content, err := os.ReadFile(log); err == nil {
					t.Logf("the end of %s:\n%s", log, tail(string(content)))
				}
			}
		}
	})
	return dir
}

// tail is the end of a log.
func tail(log string) string {
	const most = 20
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for i, line := range lines {
		if len(line) > 600 {
			lines[i] = line[:600] + "…"
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
