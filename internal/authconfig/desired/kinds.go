package desired

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// kind is what values a field has.
type kind struct {
	// allowed is how a problem says what can be written.
	allowed string
	zero    func() any
	// read turns a value that somebody wrote, or that Vault answered, into
	// canonical form. Its error says what is wrong with the value.
	read func(v any) (any, error)
}

var (
	text = kind{"a string", func() any { return "" }, func(v any) (any, error) {
		s, ok := v.(string)
		if !ok {
			return nil, wrongType(v, "string")
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return nil, fmt.Errorf("%s has a comma, white space or a control character", quote(s))
		}
		return s, nil
	}}
	boolean = kind{"true or false", func() any { return false }, func(v any) (any, error) {
		switch v {
		case true, "true":
			return true, nil
		case false, "false":
			return false, nil
		}
		return nil, wrongValue(v)
	}}
	count = kind{"a whole number from 0", func() any { return int64(0) }, func(v any) (any, error) {
		n, err := whole(v)
		if err == nil && n < 0 {
			err = fmt.Errorf("%d is negative", n)
		}
		return n, err
	}}
	seconds = kind{`seconds as a whole number from 0, or a duration such as "90s" or "1h30m"`, func() any { return int64(0) }, readSeconds}
	leeway  = kind{"seconds", func() any { return int64(0) }, func(v any) (any, error) { return whole(v) }}

	stringMap = kind{"a map of strings", func() any { return map[string]string{} }, func(v any) (any, error) {
		m, err := mapOf(v)
		if err != nil {
			return nil, err
		}
		read := make(map[string]string, len(m))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			s, ok := m[k].(string)
			if !ok {
				return nil, fmt.Errorf("%s: %w", quote(k), wrongType(m[k], "string"))
			}
			read[k] = s
		}
		return read, nil
	}}
	listMap = kind{"a map of lists", func() any { return map[string][]string{} }, func(v any) (any, error) {
		m, err := mapOf(v)
		if err != nil {
			return nil, err
		}
		read := make(map[string][]string, len(m))
		for k, v := range m {
			l, err := list.read(v)
			if err != nil {
				return nil, err
			}
			read[k] = l.([]string)
		}
		return read, nil
	}}

	list     = listOf("a list of strings", func(s string) (string, error) { return s, nil })
	policies = listOf(`a list of names`, func(s string) (string, error) {
		if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return "", fmt.Errorf("%s has white space or a control character", quote(s))
		}
		// As Vault does with those of a token.
		return strings.ToLower(s), nil
	})
	accounts   = patternsOf("ServiceAccount", `[a-z0-9.*-]+`)
	namespaces = patternsOf("namespace", `[a-z0-9*-]+`)
	cidrs      = listOf(`a list such as ["10.0.0.0/8", "2001:db8::1"]`, func(s string) (string, error) {
		// What is neither, Vault would take for the path of a socket.
		p, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return "", fmt.Errorf("%s is neither an address nor a network", quote(s))
		}
		if p = p.Masked(); p.IsSingleIP() {
			return p.Addr().String(), nil // as Vault answers it
		}
		return p.String(), nil
	})
	keys = kind{"a list of public keys as PEM", func() any { return []string{} }, func(v any) (any, error) {
		all, err := elements(v)
		if err != nil {
			return nil, err
		}
		for i, s := range all {
			if all[i], err = blocks(s); err != nil {
				return nil, err
			}
		}
		slices.Sort(all)
		return slices.Compact(all), nil
	}}
	certificates = kind{"certificates as PEM", func() any { return "" }, func(v any) (any, error) {
		s, ok := v.(string)
		if !ok {
			return nil, wrongType(v, "string")
		}
		if strings.TrimSpace(s) == "" {
			return "", nil
		}
		return blocks(s)
	}}
	selector = kind{`{"matchLabels": {"name": "value"}}`, func() any { return "" }, readSelector}
)

// enum is one of some words; the empty one is the first.
func enum(words ...string) kind {
	last := len(words) - 1
	allowed := strings.Join(words[:last], ", ") + " or " + words[last]
	return kind{allowed, func() any { return words[0] }, func(v any) (any, error) {
		s, ok := v.(string)
		switch {
		case ok && s == "":
			return words[0], nil
		case slices.Contains(words, s):
			return s, nil
		}
		if hint := suggest.DidYouMean(s, words); hint != "" {
			return nil, fmt.Errorf("%s: %s", quote(s), hint)
		}
		return nil, wrongValue(v)
	}}
}

// listOf is a set of strings, sorted, that can also be written as one with
// commas, as `vault write` takes it. element reads one of them.
func listOf(allowed string, element func(string) (string, error)) kind {
	return kind{allowed, func() any { return []string{} }, func(v any) (any, error) {
		if s, ok := v.(string); ok {
			if v = []string{}; strings.TrimSpace(s) != "" {
				v = strings.Split(s, ",")
			}
		}
		all, err := elements(v)
		if err != nil {
			return nil, err
		}
		for i, s := range all {
			s = strings.TrimSpace(s)
			switch {
			case s == "":
				return nil, errors.New("has an empty element")
			case strings.Contains(s, ","):
				// A policy on Vault's paths cannot tell this one from two.
				return nil, fmt.Errorf("%s has a comma: write two elements", quote(s))
			}
			if all[i], err = element(s); err != nil {
				return nil, err
			}
		}
		slices.Sort(all)
		return slices.Compact(all), nil
	}}
}

// patternsOf is a list of names in the cluster in which "*" stands for any run of
// characters. One that has "*" alone has nothing else: Vault refuses the rest.
func patternsOf(what, characters string) kind {
	valid := regexp.MustCompile(`^` + characters + `$`)
	k := listOf("a list of "+what+` names, with "*" for any run of characters`, func(s string) (string, error) {
		if !valid.MatchString(s) {
			return "", fmt.Errorf("%s is no name of a %s", quote(s), what)
		}
		if strings.Trim(s, "*") == "" {
			return "*", nil
		}
		return s, nil
	})
	read := k.read
	k.read = func(v any) (any, error) {
		l, err := read(v)
		if err == nil && slices.Contains(l.([]string), "*") {
			return []string{"*"}, nil
		}
		return l, err
	}
	return k
}

func readSeconds(v any) (any, error) {
	if s, ok := v.(string); ok {
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			v = json.Number(s)
		} else if d, err := duration(s); err != nil {
			return nil, fmt.Errorf("%s is no duration", quote(s))
		} else if d%time.Second != 0 {
			return nil, fmt.Errorf("%s is no whole number of seconds", quote(s))
		} else {
			v = int64(d / time.Second)
		}
	}
	n, err := whole(v)
	switch {
	case err != nil:
		return nil, err
	case n < 0:
		return nil, fmt.Errorf("%d is negative", n)
	case n > int64(math.MaxInt64/time.Second):
		return nil, fmt.Errorf("%d is too long", n)
	}
	return n, nil
}

// duration reads one as Vault does, which knows days as well.
func duration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

func readSelector(v any) (any, error) {
	if s, ok := v.(string); ok {
		if strings.TrimSpace(s) == "" {
			return "", nil
		}
		m, err := readDocument(s)
		if err != nil {
			return nil, fmt.Errorf("%s is no map as JSON or YAML", quote(s))
		}
		v = m
	}
	m, err := mapOf(v)
	if err != nil {
		return nil, err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch k {
		case "matchLabels":
		case "matchExpressions":
			return nil, errors.New("has matchExpressions, which Vault cannot do")
		default:
			return nil, fmt.Errorf("unknown key %s", quote(k))
		}
	}
	labels, err := stringMap.read(or(m["matchLabels"], any(map[string]any{})))
	if err != nil {
		return nil, fmt.Errorf("matchLabels: %w", err)
	}
	if len(labels.(map[string]string)) == 0 {
		return nil, errors.New(`has no label, so that every namespace matches: say so with bound_service_account_namespaces "*"`)
	}
	for k, v := range labels.(map[string]string) {
		if wrong := slices.Concat(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)); len(wrong) > 0 {
			return nil, fmt.Errorf("%s is no label", quote(k+": "+v))
		}
	}
	canonical, err := json.Marshal(map[string]any{"matchLabels": labels})
	return string(canonical), err
}

// blocks is a PEM text without anything that is not in its blocks.
func blocks(s string) (string, error) {
	var clean bytes.Buffer
	for rest := []byte(s); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		b.Headers = nil
		if err := pem.Encode(&clean, b); err != nil {
			return "", err
		}
	}
	if clean.Len() == 0 {
		return "", errors.New("has no PEM block")
	}
	return clean.String(), nil
}
