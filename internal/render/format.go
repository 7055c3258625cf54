package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// fileset writes a secret as the files that f asks for. Its errors name keys,
// never values.
func fileset(f config.File, s *Secret) ([]Output, error) {
	if f.Files == nil {
		b, err := format(f, s)
		return []Output{{f.Path, sealed.Of(b)}}, err
	}
	var files []Output
	write := raw
	if f.Format == config.FormatPEM {
		write = pems
	}
	for _, name := range slices.Sorted(maps.Keys(f.Files)) {
		b, err := write(f, s, f.Files[name])
		if err != nil {
			return nil, err
		}
		files = append(files, Output{f.Path + "/" + name, sealed.Of(b)})
	}
	return files, nil
}

// format writes a secret in the ready-made format that f asks for.
func format(f config.File, s *Secret) ([]byte, error) {
	switch f.Format {
	case config.FormatEnv:
		return env(s.data())
	case config.FormatJSON:
		if !indentable(s.data()) {
			return nil, unwritten("JSON with indentation, so deep does it lie in itself")
		}
		return encode(s.data(), "  ")
	case config.FormatYAML:
		if !indentable(s.data()) {
			return nil, unwritten("YAML, so deep does it lie in itself")
		}
		return yamlDocument(s.data())
	case config.FormatProperties:
		return properties(s.data())
	case config.FormatRaw:
		return raw(f, s, f.Key)
	case config.FormatPEM:
		return pems(f, s, f.Key)
	default:
		return nil, plain(fmt.Sprintf("unknown format %q (%s)", f.Format, config.Formats))
	}
}

// raw writes the exact bytes of one key.
func raw(f config.File, s *Secret, key string) ([]byte, error) {
	v, err := value(f, s, key)
	if err != nil {
		return nil, err
	}
	return text(v)
}

// value is what the secret holds at a key.
func value(f config.File, s *Secret, key string) (any, error) {
	v, ok := s.data()[key]
	if !ok {
		return nil, plain(fmt.Sprintf("secret %q has no key %q", f.Secret, key))
	}
	return v, nil
}

// variable is POSIX's Name (XBD 3.216): what a shell can assign to.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// env writes sorted KEY='value' lines that a POSIX shell reads back unchanged.
func env(data map[string]any) ([]byte, error) {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if !variable.MatchString(key) {
			return nil, plain(fmt.Sprintf("key %q cannot be written as env (letters, digits and _, no digit first; use format json, or raw with this key)", key))
		}
		value, err := text(data[key])
		if err != nil {
			return nil, err
		}
		if bytes.IndexByte(value, 0) >= 0 {
			return nil, plain(fmt.Sprintf("key %q holds a NUL byte, which env cannot carry (use format raw with this key)", key))
		}
		// Inside single quotes only the single quote itself is special.
		fmt.Fprintf(&b, "%s='%s'\n", key, strings.ReplaceAll(string(value), "'", `'\''`))
	}
	return b.Bytes(), nil
}

// text returns a string's own bytes, and anything else as JSON.
func text(v any) ([]byte, error) {
	if s, ok := v.(string); ok {
		return []byte(s), nil
	}
	b, err := encode(v, "")
	return bytes.TrimSuffix(b, []byte("\n")), err
}

// mostIndentation bounds the spaces that lines begin with, in bytes: lists that
// lie a few thousand deep in each other would make a file of gigabytes of a
// secret of a few hundred KiB.
const mostIndentation = 16 << 20

// indentable reports whether a decoded JSON value can be written with two spaces
// for each level that a line lies deep. One that holds itself cannot.
func indentable(v any) bool {
	left := mostIndentation
	var visit func(v any, depth int)
	visit = func(v any, depth int) {
		each := func(element any) {
			if left -= 2 * depth; left >= 0 {
				visit(element, depth+1)
			}
		}
		switch v := v.(type) {
		case map[string]any:
			for _, element := range v {
				each(element)
			}
		case []any:
			for _, element := range v {
				each(element)
			}
		}
	}
	visit(v, 1)
	return left >= 0
}

// encode writes v as JSON with sorted keys and a final newline.
func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		// The cause may quote what it could not encode.
		return nil, plain("value cannot be written as JSON")
	}
	return b.Bytes(), nil
}
