package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// yamlDocument writes a map as YAML, sorted and with a final newline. It is the
// part of YAML on which all its versions and readers agree: maps and lists in
// block style, every string in double quotes as in JSON, so that none is taken
// for a number, a date or a boolean, and numbers with the digits they came with.
func yamlDocument(data map[string]any) ([]byte, error) {
	var b bytes.Buffer
	err := writeYAML(&b, data, 0, false)
	return b.Bytes(), err
}

// plainKey is what needs no quotes as a key; reserved are the exceptions, which
// YAML 1.1 takes for a boolean or null.
var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

var reserved = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true, "true": true, "false": true, "null": true}

// writeYAML writes a value and a newline. After a key's colon a map or a list
// begins on the next line; after the dash of a list it begins at once.
func writeYAML(b *bytes.Buffer, v any, depth int, afterKey bool) error {
	indent := strings.Repeat("  ", depth)
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			b.WriteString(space(afterKey) + "{}\n")
			return nil
		}
		if afterKey {
			b.WriteByte('\n')
		}
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 || afterKey {
				b.WriteString(indent)
			}
			if plainKey.MatchString(key) && !reserved[strings.ToLower(key)] {
				b.WriteString(key)
			} else {
				writeQuoted(b, key)
			}
			b.WriteByte(':')
			if err := writeYAML(b, v[key], depth+1, true); err != nil {
				return err
			}
		}
		return nil
	case []any:
		if len(v) == 0 {
			b.WriteString(space(afterKey) + "[]\n")
			return nil
		}
		if afterKey {
			b.WriteByte('\n')
		}
		for i, element := range v {
			if i > 0 || afterKey {
				b.WriteString(indent)
			}
			b.WriteString("- ")
			if err := writeYAML(b, element, depth+1, false); err != nil {
				return err
			}
		}
		return nil
	}
	b.WriteString(space(afterKey))
	switch v := v.(type) {
	case string:
		writeQuoted(b, v)
	case json.Number:
		b.WriteString(yamlNumber(v))
	default:
		data, err := text(v)
		if err != nil {
			return err
		}
		b.Write(data)
	}
	b.WriteByte('\n')
	return nil
}

// space stands between a colon and what follows on its line.
func space(afterKey bool) string {
	if afterKey {
		return " "
	}
	return ""
}

// yamlNumber writes an exponent as YAML 1.1 wants it: it takes 1e6 for a string.
func yamlNumber(n json.Number) string {
	mantissa, exponent, found := strings.Cut(strings.ToLower(n.String()), "e")
	if !found {
		return mantissa
	}
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	if exponent[0] != '-' && exponent[0] != '+' {
		exponent = "+" + exponent
	}
	return mantissa + "e" + exponent
}

// writeQuoted writes a string in double quotes, with an escape for whatever
// YAML does not allow as it is (YAML 1.2.2, section 5.1), breaks lines at, or
// drops at the beginning of a text.
func writeQuoted(b *bytes.Buffer, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ', r >= 0x7f && r <= 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff, r == 0xfffe, r == 0xffff:
			fmt.Fprintf(b, `\u%04x`, r)
		case r == utf8.RuneError:
			b.WriteString("\ufffd")
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
