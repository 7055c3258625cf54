package render

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v2"
)

// plain is an error of our own whose text holds no secret, so that it may be
// shown as it is.
type plain string

func (p plain) Error() string { return string(p) }

func base64Decode(s string) (string, error) { return decode(base64.StdEncoding, s) }
func base64Encode(s string) string          { return base64.StdEncoding.EncodeToString([]byte(s)) }

func base64URLDecode(s string) (string, error) { return decode(base64.URLEncoding, s) }
func base64URLEncode(s string) string          { return base64.URLEncoding.EncodeToString([]byte(s)) }

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

// split of nothing but white space is empty.
func split(sep, s string) []string {
	if s = strings.TrimSpace(s); s == "" {
		return []string{}
	}
	return strings.Split(s, sep)
}

// splitToMap leaves out what has no second separator.
func splitToMap(between, within, s string) map[string]string {
	m := make(map[string]string)
	for _, pair := range split(between, s) {
		if k, v, ok := strings.Cut(pair, within); ok {
			m[k] = v
		}
	}
	return m
}

func regexMatch(re, s string) (bool, error) {
	compiled, err := regexp.Compile(re)
	if err != nil {
		return false, plain("regexMatch takes a regular expression of RE2")
	}
	return compiled.MatchString(s), nil
}

func regexReplaceAll(re, replacement, s string) (string, error) {
	compiled, err := regexp.Compile(re)
	if err != nil {
		return "", plain("regexReplaceAll takes a regular expression of RE2")
	}
	return compiled.ReplaceAllString(s, replacement), nil
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func md5sum(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

func hmacSHA256Hex(message, key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(message))
	return hex.EncodeToString(mac.Sum(nil))
}

// timestamp is the time in UTC: in RFC 3339, in seconds of Unix time ("unix"),
// or in a layout of Go's package time.
func timestamp(layout ...string) (string, error) {
	now := time.Now().UTC()
	switch {
	case len(layout) > 1:
		return "", plain(fmt.Sprintf("timestamp takes one layout at most, not %d", len(layout)))
	case len(layout) == 0:
		return now.Format(time.RFC3339), nil
	case layout[0] == "unix":
		return strconv.FormatInt(now.Unix(), 10), nil
	}
	return now.Format(layout[0]), nil
}

// An empty string parses as the zero of its type.

func parseBool(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(s)
	return v, unparsed(err, "true or false")
}

func parseFloat(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, unparsed(err, "number")
}

func parseInt(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	return v, unparsed(err, "whole number of 64 bits")
}

func parseUint(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(s, 10, 64)
	return v, unparsed(err, "whole number of 64 bits that is 0 or more")
}

func parseJSON(s string) (any, error) {
	if s == "" {
		return map[string]any{}, nil
	}
	var v any
	err := json.Unmarshal([]byte(s), &v)
	return v, unparsed(err, "JSON")
}

func parseYAML(s string) (any, error) {
	if s == "" {
		return map[string]any{}, nil
	}
	var v any
	err := yaml.Unmarshal([]byte(s), &v)
	return v, unparsed(err, "YAML")
}

// unparsed leaves out of a parser's error what it could not parse.
func unparsed(err error, want string) error {
	if err == nil {
		return nil
	}
	return plain("the value is no " + want)
}

func toJSON(v any) (string, error)                { return marshal(v, "", true) }
func toJSONPretty(v any) (string, error)          { return marshal(v, "  ", true) }
func toUnescapedJSON(v any) (string, error)       { return marshal(v, "", false) }
func toUnescapedJSONPretty(v any) (string, error) { return marshal(v, "  ", false) }

// marshal writes v as JSON with sorted keys and no final newline.
func marshal(v any, indent string, escape bool) (string, error) {
	if indent != "" && !indentable(v) {
		return "", unwritten("JSON with indentation, so deep does it lie in itself")
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escape)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return "", unwritten("JSON")
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func toYAML(v any) (string, error) {
	if !indentable(v) {
		return "", unwritten("YAML, so deep does it lie in itself")
	}
	b, err := yaml.Marshal(v)
	if err != nil {
		return "", unwritten("YAML")
	}
	return string(bytes.TrimSpace(b)), nil
}

func toTOML(v any) (string, error) {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(v); err != nil {
		return "", unwritten("TOML")
	}
	return string(bytes.TrimSpace(b.Bytes())), nil
}

// unwritten replaces an encoder's error, which may quote what it could not
// encode.
func unwritten(as string) error { return plain("the value cannot be written as " + as) }
