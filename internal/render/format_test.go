package render

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func TestYAML(t *testing.T) {
	const want = `_map:
  a: ""
  b: "<&>"
big: 12345678901234567890
empty: ""
list:
  - "x"
  - 1
none: null
"on": true
password: "a b\n$HOME ` + "`id`" + ` \"\\"
port: 5432
user: "o'hara"
`
	for _, kv2 := range []bool{false, true} {
		got, err := render(t, config.File{Secret: "kv/app", Format: "yaml"}, store(sample, kv2))
		if err != nil || got != want {
			t.Errorf("error %v\n got %s\nwant %s", err, got, want)
		}
	}
}

// awkward holds what a format can get wrong.
var awkward = map[string]any{
	"yes": "no", "null": "null", "~": "~", "1": "1", "1.5": "1e3", ".inf": ".inf", "2024-01-02": "2024-01-02", "": "empty key", "a b": " lead and trail ",
	"a: b": "x: y # z", "#k": "#v", "- x": "- y", "?q": "? q", "&a": "&a *a", "!t": "!!str x", "'": `it's "quoted"`, `"`: `\n`, "{": "{a}", "tab\t": "\ttab\t",
	"nl\n": "one\ntwo\n", "cr": "a\r\nb\r", "nul": "a\x00b", "c1": "\u0080\u0085\u00a0", "bom": "\ufeffx", "sep": "\u2028\u2029", "del": "\x7f", "é": "日本語 😀", "<<": "merge",
	"=": "=", ":": ":", "!": "!", "\\": "\\", "long": strings.Repeat("word ", 200), "bell": "\a\b\f\v\x1b", "e": json.Number("1e6"), "E": json.Number("-2.5E-3"), "int": json.Number("0"),
	"deep": []any{[]any{"a", []any{}, map[string]any{}}, map[string]any{"k": map[string]any{"l": []any{nil, true, map[string]any{"m": "n", "o": "p"}}}, "z": false}},
}

// decoded is a value as a reader sees it that knows numbers as floats.
func decoded(t *testing.T, v any) any {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// A YAML reader finds each value of the kind and with the bytes it had.
func TestYAMLReadsBack(t *testing.T) {
	got, err := render(t, config.File{Secret: "kv/app", Format: "yaml"}, store(awkward, false))
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := yaml.Unmarshal([]byte(got), &back); err != nil {
		t.Fatalf("%v in\n%s", err, got)
	}
	want := decoded(t, awkward).(map[string]any)
	for key, value := range want {
		if !reflect.DeepEqual(decoded(t, back[key]), value) {
			t.Errorf("%q: reads back as %#v, want %#v", key, back[key], value)
		}
	}
	if len(back) != len(want) {
		t.Errorf("%d keys read back, want %d", len(back), len(want))
	}
}

func TestProperties(t *testing.T) {
	const want = `_map={"a"\:"","b"\:"<&>"}` + "\nbig=12345678901234567890\nempty=\nlist=[\"x\",1]\nnone=null\non=true\npassword=a b\\n$HOME `id` \"\\\\\nport=5432\nuser=o'hara\n"
	got, err := render(t, config.File{Secret: "kv/app", Format: "properties"}, store(sample, true))
	if err != nil || got != want {
		t.Errorf("error %v\n got %s\nwant %s", err, got, want)
	}
}

// loadProperties reads as the documentation of java.util.Properties.load says.
func loadProperties(text string) map[string]string {
	unescape := func(s string) string {
		var units []uint16
		for i := 0; i < len(s); i++ {
			c := s[i]
			if c == '\\' {
				i++
				switch c = s[i]; c {
				case 'u':
					n, _ := strconv.ParseUint(s[i+1:i+5], 16, 16)
					units = append(units, uint16(n))
					i += 4
					continue
				case 't':
					c = '\t'
				case 'n':
					c = '\n'
				case 'r':
					c = '\r'
				case 'f':
					c = '\f'
				}
			}
			units = append(units, uint16(c)) // ISO 8859-1
		}
		return string(utf16.Decode(units))
	}
	m := make(map[string]string)
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimLeft(line, " \t\f")
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		end := len(line)
		for i := 0; i < len(line); i++ {
			if line[i] == '\\' {
				i++
			} else if strings.IndexByte("=: \t\f", line[i]) >= 0 {
				end = i
				break
			}
		}
		key, rest := line[:end], strings.TrimLeft(line[end:], " \t\f")
		if rest != "" && (rest[0] == '=' || rest[0] == ':') {
			rest = strings.TrimLeft(rest[1:], " \t\f")
		}
		m[unescape(key)] = unescape(rest)
	}
	return m
}

func TestPropertiesReadBack(t *testing.T) {
	strings := maps.Clone(awkward)
	maps.DeleteFunc(strings, func(_ string, v any) bool { _, ok := v.(string); return !ok })
	got, err := render(t, config.File{Secret: "kv/app", Format: "properties"}, store(strings, false))
	if err != nil {
		t.Fatal(err)
	}
	back := loadProperties(got)
	for key, want := range strings {
		if back[key] != want {
			t.Errorf("%q: reads back as %q, want %q", key, back[key], want)
		}
	}
	if len(back) != len(strings) {
		t.Errorf("%d keys read back, want %d", len(back), len(strings))
	}
}

// block is a PEM block with n as its content.
func block(kind string, n byte) string {
	return strings.TrimSuffix(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes.Repeat([]byte{n}, 100)})), "\n")
}

func TestPEM(t *testing.T) {
	leaf, issuer, root, key := block("CERTIFICATE", 1), block("CERTIFICATE", 2), block("CERTIFICATE", 3), block("PRIVATE KEY", 4)
	data := map[string]any{
		"certificate": leaf, "private_key": key + "\n\n", "issuing_ca": issuer, "ca_chain": []any{issuer, root}, "crlf": strings.ReplaceAll(leaf, "\n", "\r\n"),
		"bundle": "Bag Attributes\n    friendlyName: x\n" + leaf + "\n" + issuer, "text": "s3cr3t", "empty": " \n", "none": nil, "number": json.Number("314159"),
		"list": []any{issuer, "s3cr3t"}, "numbers": []any{json.Number("314159")}, "nothing": []any{}, "damaged": leaf + "\n" + strings.Replace(issuer, "CERTIFICATE-----\n", "CERTIFICATE-----\n*s3cr3t*", 1), "map": map[string]any{"s3cr3t": "s3cr3t"},
	}
	for _, c := range []struct{ keys, want, err string }{
		{"certificate", leaf + "\n", ""},
		{"certificate+ca_chain", leaf + "\n" + issuer + "\n" + root + "\n", ""},
		{"certificate+issuing_ca+ca_chain", leaf + "\n" + issuer + "\n" + root + "\n", ""},
		{"private_key+certificate", key + "\n" + leaf + "\n", ""},
		{"crlf", leaf + "\n", ""},
		{"bundle+ca_chain", leaf + "\n" + issuer + "\n" + root + "\n", ""},
		{"certificate+nope", "", `secret "pki/issue/app" has no key "nope"`},
		{"text", "", `key "text" of secret "pki/issue/app" holds a string that is no PEM (PEM, or a list of it; format raw writes any key)`},
		{"certificate+empty", "", `key "empty" of secret "pki/issue/app" holds an empty string (`},
		{"none", "", `key "none" of secret "pki/issue/app" holds null (`},
		{"number", "", `key "number" of secret "pki/issue/app" holds a number (`},
		{"map", "", `key "map" of secret "pki/issue/app" holds a map (`},
		{"nothing", "", `key "nothing" of secret "pki/issue/app" holds an empty list (`},
		{"list", "", `key "list" of secret "pki/issue/app" holds a string that is no PEM in entry 2 of its list (`},
		{"numbers", "", `key "numbers" of secret "pki/issue/app" holds a number in entry 1 of its list (`},
		{"damaged", "", `key "damaged" of secret "pki/issue/app" holds a damaged PEM block (`},
	} {
		f := config.File{Secret: "pki/issue/app", Format: "pem", Key: c.keys}
		got, err := render(t, f, store(data, false))
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%s: error %v\n got %s\nwant %s", c.keys, err, got, c.want)
		case c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)):
			t.Errorf("%s: got %v, want %s", c.keys, err, c.err)
		case err != nil && (strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "314159")):
			t.Errorf("%s: error holds a value: %v", c.keys, err)
		}
	}
}

// Go's own reader of keys takes what format pem wrote, and each of several
// files has its keys.
func TestPEMFiles(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]any{"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "certificate": block("CERTIFICATE", 1), "ca_chain": []any{block("CERTIFICATE", 2)}}
	r, err := New(config.File{Path: "tls", Secret: "pki/issue/app", Format: "pem", Files: map[string]string{"tls.key": "private_key", "tls.crt": "certificate+ca_chain"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.Render(store(data, false), "")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, o := range result.Files {
		files[o.Path] = o.Content.Reveal()
	}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, []string{"tls/tls.crt", "tls/tls.key"}) {
		t.Fatalf("got files %q", got)
	}
	if n := bytes.Count(files["tls/tls.crt"], []byte(pemBegin)); n != 2 {
		t.Errorf("tls.crt has %d blocks, want 2", n)
	}
	b, _ := pem.Decode(files["tls/tls.key"])
	if back, err := x509.ParsePKCS8PrivateKey(b.Bytes); err != nil || !key.Equal(back) {
		t.Errorf("key reads back as %v (%v)", back, err)
	}
}
