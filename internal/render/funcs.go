package render

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"text/template"
)

// functions is the table of template functions beside text/template's own.
// Each has Vault Agent's name, order of arguments (what is piped comes last)
// and result. The function that looks secrets up is each Renderer's own.
var functions = template.FuncMap{
	"secret":          (*Renderer)(nil).secret,
	"toJSON":          toJSON,
	"base64Decode":    func(s string) (string, error) { return decode(base64.StdEncoding, s) },
	"base64Encode":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64URLDecode": func(s string) (string, error) { return decode(base64.URLEncoding, s) },
	"base64URLEncode": func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
	"trim":            func(cutset, s string) string { return strings.Trim(s, cutset) },
	"trimPrefix":      func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix":      func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"trimSpace":       strings.TrimSpace,
	"indent":          indent,
}

// Functions are the names of the template functions beside text/template's own.
func Functions() []string { return slices.Sorted(maps.Keys(functions)) }

// plain is an error of our own whose text holds no secret, so that it may be
// shown as it is.
type plain string

func (p plain) Error() string { return string(p) }

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		// The cause may quote what it could not encode.
		return "", plain("value cannot be written as JSON")
	}
	return string(b), nil
}

func decode(e *base64.Encoding, s string) (string, error) {
	b, err := e.DecodeString(s)
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) {
		return "", plain(corrupt.Error())
	}
	return string(b), err
}

// indent puts n spaces before every line that is not empty.
func indent(n int, s string) (string, error) {
	if n < 0 {
		return "", plain("indent takes a number of spaces of 0 or more")
	}
	prefix := strings.Repeat(" ", n)
	var b strings.Builder
	for line := range strings.SplitAfterSeq(s, "\n") {
		if line != "" && line != "\n" {
			b.WriteString(prefix)
		}
		b.WriteString(line)
	}
	return b.String(), nil
}
