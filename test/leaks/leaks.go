// Package leaks looks for secrets in what programs say: as they are, and as
// they look when something has quoted, escaped or encoded them.
package leaks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Shortest is the length in bytes below which a value may stand anywhere by
// chance and cannot be looked for.
const Shortest = 8

// Secrets are values that may stand nowhere. Its methods may be called at the
// same time.
type Secrets struct {
	mu    sync.Mutex
	names map[string]string // by each form of a value
	count int
}

// New returns Secrets that hold how every Vault token, ServiceAccount token and
// private key begins, so that those are found whose value nobody knows.
func New() *Secrets {
	s := &Secrets{names: make(map[string]string)}
	// Of a token's first letters alone nothing but a token begins; the letters
	// behind them make its encodings long enough.
	s.names["hvs."], s.names["hvb."] = "a Vault token", "a Vault token"
	for beginning, name := range map[string]string{
		"hvs.CAES":         "a Vault token",
		"hvb.AAAA":         "a Vault token",
		"eyJhbGciOi":       "a ServiceAccount token",
		"PRIVATE KEY-----": "a private key",
	} {
		s.add(name, beginning)
	}
	return s
}

// Add says that a value may stand nowhere. The name is what a finding calls it.
func (s *Secrets) Add(name, value string) error {
	if len(value) < Shortest {
		return fmt.Errorf("%s is too short to be looked for (at least %d bytes)", name, Shortest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(name, value)
	return nil
}

func (s *Secrets) add(name, value string) {
	s.count++
	for _, form := range forms(value) {
		s.names[form] = name
	}
	// Of several lines each is secret, but for what begins and ends PEM.
	for line := range strings.Lines(value) {
		if line = strings.TrimSpace(line); line != value && len(line) >= Shortest && !strings.HasPrefix(line, "-----") {
			s.names[line] = name
		}
	}
}

// Len is how many values are looked for.
func (s *Secrets) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// In returns what a text holds, as "line 3: a Vault token", sorted by name and
// without the value. Each secret is told once.
func (s *Secrets) In(text string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := make(map[string]int)
	for form, name := range s.names {
		if i := strings.Index(text, form); i >= 0 {
			if at, ok := first[name]; !ok || i < at {
				first[name] = i
			}
		}
	}
	var found []string
	for name, at := range first {
		found = append(found, fmt.Sprintf("line %d: %s", 1+strings.Count(text[:at], "\n"), name))
	}
	slices.Sort(found)
	return found
}

// forms are a value as it is, as JSON, Go, a shell and a URL would write it, and
// each of them as the middle of anything in base64.
func forms(value string) []string {
	all := []string{value, url.QueryEscape(value), url.PathEscape(value), strings.ReplaceAll(value, "'", `'\''`)}
	quoted := strconv.Quote(value)
	all = append(all, quoted[1:len(quoted)-1])
	if asJSON, err := json.Marshal(value); err == nil {
		all = append(all, string(asJSON[1:len(asJSON)-1]))
	}
	for _, written := range all[:len(all):len(all)] {
		all = append(all, encoded(written)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// encoded is a text in base64, where it may begin at each of three places. A
// letter of base64 is six bits: the first and the last ones also hold bits of
// what stands beside the text.
func encoded(text string) (all []string) {
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			letters := encoding.EncodeToString([]byte(strings.Repeat("x", before) + text))
			all = append(all, letters[(before*8+5)/6:(before+len(text))*8/6])
		}
	}
	return all
}
