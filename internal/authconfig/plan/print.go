package plan

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

var marks = map[Verb]string{Create: "+", Change: "~", Adopt: "=", Delete: "-"}

// Print writes what a person reads: each step with its fields, then what is
// refused, then what is wrong with the sources, and a count. Certificates and
// keys are shown by their fingerprints.
func (p *Plan) Print(to io.Writer) error {
	w := bufio.NewWriter(to)
	for _, s := range p.Steps {
		fmt.Fprintf(w, "%s %s %s %s%s\n", marks[s.Verb], s.Verb, word(s.Kind), p.path(s.Kind, s.Name), remarks(&s))
		for _, line := range p.fields(&s) {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	for _, r := range p.Refused {
		fmt.Fprintf(w, "! refused %s %s%s\n    %s\n", r.Kind, p.path(r.Kind, r.Name), from(r.Source), r.Text)
	}
	for _, problem := range p.Problems {
		fmt.Fprintf(w, "! %s\n", problem)
	}
	fmt.Fprintln(w, p.count())
	return w.Flush() // the first error of all
}

func (p *Plan) path(k Kind, name string) string {
	switch k {
	case KindMount, KindTune:
		return "auth/" + name
	case KindConfig:
		return "auth/" + name + "/config"
	case KindRole:
		return "auth/" + p.Mount + "/role/" + name
	}
	return name
}

func word(k Kind) string {
	if k == KindTune {
		return "settings of"
	}
	return string(k)
}

func remarks(s *Step) string {
	text := from(s.Source)
	switch {
	case s.Drift && s.Why == "":
		text += ": somebody has changed it"
	case s.Drift:
		text += ": drift: " + s.Why
	case s.Why != "":
		text += ": " + s.Why
	}
	return text
}

func from(source string) string {
	if source == "" {
		return ""
	}
	return " (from " + source + ")"
}

func (p *Plan) count() string {
	var parts []string
	for _, verb := range []Verb{Create, Change, Adopt, Delete} {
		n := 0
		for _, s := range p.Steps {
			if s.Verb == verb {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n, verb))
		}
	}
	if n := len(p.Refused); n > 0 {
		parts = append(parts, fmt.Sprintf("%d refused", n))
	}
	if len(parts) == 0 {
		parts = []string{"nothing to change"}
	}
	switch n := len(p.Problems); n {
	case 0:
	case 1:
		parts = append(parts, "1 problem")
	default:
		parts = append(parts, fmt.Sprintf("%d problems", n))
	}
	return strings.Join(parts, ", ")
}

// fields are those that a step sets to other than their defaults, or changes.
func (p *Plan) fields(s *Step) []string {
	if s.Verb == Delete || s.Verb == Adopt {
		return nil
	}
	before := s.Before
	if s.Verb == Create {
		before = p.defaults(s.Kind)
	}
	names := make(map[string]bool)
	for name := range s.After {
		names[name] = true
	}
	for name := range before {
		names[name] = true
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, fresh := before[name], s.After[name]
		switch {
		case Equal(desired.Fields{name: old}, desired.Fields{name: fresh}):
		case s.Verb == Create:
			lines = append(lines, name+": "+show(fresh))
		default:
			lines = append(lines, name+": "+show(old)+" → "+show(fresh))
		}
	}
	return lines
}

// defaults are what Vault has in the fields that nobody set.
func (p *Plan) defaults(k Kind) desired.Fields {
	nothing := map[string]any{}
	switch k {
	case KindRole:
		return desired.Canonical(p.Type, nothing)
	case KindConfig:
		return desired.CanonicalConfig(p.Type, nothing)
	}
	return nil
}

// Brief is a text as people read it: of certificates and keys the fingerprints.
func Brief(text string) string {
	if blocks := describe(text); len(blocks) > 0 {
		return strings.Join(blocks, ", ")
	}
	return text
}

func show(value any) string {
	switch v := value.(type) {
	case nil:
		return "none"
	case string:
		if blocks := describe(v); len(blocks) > 0 {
			return strings.Join(blocks, ", ")
		}
		return strconv.Quote(v)
	case []string:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = show(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]string:
		return showMap(v)
	case map[string][]string:
		return showMap(v)
	}
	return fmt.Sprint(value)
}

func showMap[V any](m map[string]V) string {
	items := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		items = append(items, strconv.Quote(key)+": "+show(m[key]))
	}
	return "{" + strings.Join(items, ", ") + "}"
}

// describe says of each PEM block of text what it is; nil where there is none.
func describe(text string) []string {
	var all []string
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		sum := sha256.Sum256(block.Bytes)
		print := fmt.Sprintf("SHA-256 %x", sum[:8])
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, fmt.Sprintf("certificate %q until %s (%s…)", cert.Subject.String(), cert.NotAfter.UTC().Format(time.DateOnly), print))
		} else if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			all = append(all, fmt.Sprintf("%s (%s…)", kindOfKey(key), print))
		} else {
			all = append(all, fmt.Sprintf("PEM block %q (%s…)", block.Type, print))
		}
	}
}

func kindOfKey(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA key on " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519 key"
	}
	return "public key"
}
