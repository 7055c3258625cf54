package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// store answers every path with one secret.
func store(data map[string]any, kv2 bool) Lookup {
	return func(Request) (*Secret, error) {
		if kv2 {
			data := map[string]any{"data": data, "metadata": map[string]any{"version": json.Number("3")}}
			return NewSecret(View{Data: data}, true), nil
		}
		return NewSecret(View{Data: data}, false), nil
	}
}

func render(t *testing.T, f config.File, lookup Lookup) (string, error) {
	t.Helper()
	f.Path = "f"
	r, err := New(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.Render(lookup, "")
	if err != nil {
		return "", err
	}
	return string(result.Files[0].Content.Reveal()), nil
}

var sample = map[string]any{
	"user": "o'hara", "password": "a b\n$HOME `id` \"\\", "port": json.Number("5432"), "big": json.Number("12345678901234567890"),
	"on": true, "none": nil, "list": []any{"x", json.Number("1")}, "_map": map[string]any{"b": "<&>", "a": ""}, "empty": "",
}

func TestFormats(t *testing.T) {
	for _, kv2 := range []bool{false, true} {
		for _, c := range []struct {
			file config.File
			want string
		}{
			{config.File{Format: "env"}, "_map='{\"a\":\"\",\"b\":\"<&>\"}'\nbig='12345678901234567890'\nempty=''\nlist='[\"x\",1]'\nnone='null'\non='true'\n" +
				"password='a b\n$HOME `id` \"\\'\nport='5432'\nuser='o'\\''hara'\n"},
			{config.File{Format: "json"}, "{\n  \"_map\": {\n    \"a\": \"\",\n    \"b\": \"<&>\"\n  },\n  \"big\": 12345678901234567890,\n  \"empty\": \"\",\n  \"list\": [\n    \"x\",\n    1\n  ],\n" +
				"  \"none\": null,\n  \"on\": true,\n  \"password\": \"a b\\n$HOME `id` \\\"\\\\\",\n  \"port\": 5432,\n  \"user\": \"o'hara\"\n}\n"},
			{config.File{Format: "raw", Key: "password"}, "a b\n$HOME `id` \"\\"},
			{config.File{Format: "raw", Key: "big"}, "12345678901234567890"},
			{config.File{Format: "raw", Key: "_map"}, `{"a":"","b":"<&>"}`},
		} {
			c.file.Secret = "kv/app"
			got, err := render(t, c.file, store(sample, kv2))
			if err != nil || got != c.want {
				t.Errorf("%+v: error %v\n got %q\nwant %q", c.file, err, got, c.want)
			}
		}
	}
}

// A real shell reads back what format env wrote.
func TestEnvInShell(t *testing.T) {
	got, err := render(t, config.File{Secret: "kv/app", Format: "env"}, store(sample, false))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, value := range sample {
		want, ok := value.(string)
		if !ok {
			continue
		}
		out, err := exec.Command("sh", "-c", `. "$1"; printf %s "$`+key+`"`, "sh", file).Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: shell reads %q, want %q (%v)", key, out, want, err)
		}
	}
}

// One answer becomes several files; where a key is missing there is none.
func TestFiles(t *testing.T) {
	f := config.File{Path: "tls", Secret: "pki/issue/app", Data: map[string]any{"common_name": "app"},
		Files: map[string]string{"tls.key": "password", "ca/list.json": "list", "tls.crt": "user"}}
	r, err := New(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var asked []Request
	lookup := func(q Request) (*Secret, error) {
		asked = append(asked, q)
		return store(sample, false)(q)
	}
	result, err := r.Render(lookup, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range result.Files {
		got = append(got, o.Path+"="+string(o.Content.Reveal()))
	}
	want := []string{`tls/ca/list.json=["x",1]`, "tls/tls.crt=o'hara", "tls/tls.key=a b\n$HOME `id` \"\\"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if len(asked) != 1 || asked[0].Path != "pki/issue/app" || asked[0].Data["common_name"] != "app" {
		t.Errorf("asked for %+v", asked)
	}
	f.Files["ca.crt"] = "nope"
	if result, err := r.Render(lookup, ""); err == nil || len(result.Files) != 0 || err.Error() != `secret "pki/issue/app" has no key "nope"` {
		t.Errorf("a missing key: %d files, %v", len(result.Files), err)
	}
}

func TestFormatErrors(t *testing.T) {
	for _, c := range []struct {
		file config.File
		data map[string]any
		want string
	}{
		{config.File{Format: "env"}, map[string]any{"a-b": "value"}, `key "a-b" cannot be written as env`},
		{config.File{Format: "env"}, map[string]any{"1a": "value"}, `key "1a" cannot be written as env`},
		{config.File{Format: "env"}, map[string]any{"a\n": "value"}, `key "a\n" cannot be written as env`},
		{config.File{Format: "env"}, map[string]any{"a": "value\x00"}, `key "a" holds a NUL byte`},
		{config.File{Format: "raw", Key: "nope"}, map[string]any{"a": "value"}, `secret "kv/app" has no key "nope"`},
	} {
		c.file.Secret = "kv/app"
		_, err := render(t, c.file, store(c.data, false))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "value") {
			t.Errorf("%+v: got %v, want %s", c.file, err, c.want)
		}
	}
}

func TestTemplates(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`{{ with secret "kv/app" }}{{ .Data.data.user }}:{{ .Data.data.port }}:{{ .Data.metadata.version }}{{ end }}`, "o'hara:5432:3"},
		{`{{ (secret "kv/app").Data.data.big | toJSON }}`, "12345678901234567890"},
		{`{{ (secret "kv/app").Data.data._map | toJSON }}`, `{"a":"","b":"\u003c\u0026\u003e"}`},
		{`{{ range $k, $v := (secret "kv/app").Data.data._map }}{{ $k }}={{ $v }};{{ end }}`, "a=;b=<&>;"},
		{`{{ "hello" | base64Encode }} {{ "aGVsbG8=" | base64Decode }}`, "aGVsbG8= hello"},
		{`{{ "\xfb\xff" | base64URLEncode }} {{ "_-8=" | base64URLDecode | printf "%x" }}`, "-_8= ffef"},
		{`{{ "xxaxx" | trim "x" }}{{ "xa" | trimPrefix "x" }}{{ "ax" | trimSuffix "x" }}{{ " a " | trimSpace }}`, "aaaa"},
		{`{{ "a\n\nb\n" | indent 2 }}`, "  a\n\n  b\n"},
		{`{{ "\n" | indent 2 }}{{ "" | indent 2 }}`, "\n"},
		{"$$ $(HOME) $(LATCHKEY_CONFIG)", "$$ $(HOME) $(LATCHKEY_CONFIG)"},
	} {
		got, err := render(t, config.File{Template: c.template}, store(sample, true))
		if err != nil || got != c.want {
			t.Errorf("%s: error %v\n got %q\nwant %q", c.template, err, got, c.want)
		}
	}
}

// Whatever goes wrong, the error says where and holds no value.
func TestTemplateErrorsHoldNoValue(t *testing.T) {
	const secret = "s3cr3t"
	lookup := store(map[string]any{"password": secret, "number": json.Number("314159"), "map": map[string]any{secret: secret}}, true)
	for _, c := range []struct{ template, want string }{
		{"a\n{{ with secret \"kv/app\" }}{{ .Data.data.nope }}{{ end }}", `line 2, column 35: .Data.data.nope: secret has no key "nope"`},
		{`{{ range (secret "kv/app").Data.data.password }}{{ end }}`, `line 1, column 18: `},
		{`{{ (secret "kv/app").Data.data.password.x }}`, `line 1, column 12: "kv/app": can't evaluate field x`},
		{`{{ (secret "kv/app").Data.data.password | base64Decode }}`, `line 1, column 43: base64Decode: illegal base64 data`},
		{`{{ index (secret "kv/app").Data.data.password 99 }}`, `line 1, column 4: `},
		{`{{ slice (secret "kv/app").Data.data.password 1 314159 }}`, `line 1, column 4: `},
		{`{{ (secret "kv/app").Data.data.password | indent -1 }}`, `line 1, column 43: indent -1: indent takes a number of spaces of 0 or more`},
		{`{{ indent (secret "kv/app").Data.data.password "x" }}`, `line 1, column 19: `},
		{`{{ call (secret "kv/app").Data.data.password }}`, `line 1, column 4: `},
		{`{{ lt (secret "kv/app").Data.data.map 1 }}`, `line 1, column 4: `},
		{`{{ and (secret "kv/app").Data.data.password.x.y 1 }}`, `line 1, column 16: `},
		{`{{ (secret "kv/app").Data.data.map.nope.deep }}`, `line 1, column 12: "kv/app": secret has no key "nope"`},
		{`{{ html (secret "kv/app").Data.data.map | printf | len 1 }}`, ``},
	} {
		got, err := render(t, config.File{Template: c.template}, lookup)
		if err == nil {
			t.Errorf("%s: no error, rendered %q", c.template, got)
			continue
		}
		if !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.template, err, c.want)
		}
		if strings.Contains(err.Error(), secret) || strings.Contains(strings.ReplaceAll(err.Error(), c.template, ""), "314159") && !strings.Contains(c.template, "314159") {
			t.Errorf("%s: error holds a value: %v", c.template, err)
		}
	}
}

// The two versions of the KV engine are told apart by who writes templates for
// both, and mistaken for each other by everybody else.
func TestTemplateForOtherVersionOfKV(t *testing.T) {
	for _, c := range []struct {
		template string
		v2       bool
		want     string
	}{
		{`{{ with secret "kv/app" }}{{ .Data.password_of_the_user }}{{ end }}`, true,
			`line 1, column 35: .Data.password_of_the_user: secret has no key "password_of_the_user" (those of KV version 2 are below .Data.data)`},
		{`{{ with secret "kv/app" }}{{ .Data.data.user }}{{ end }}`, false,
			`line 1, column 35: .Data.data.user: secret has no key "data" (only those of KV version 2 are below .Data.data)`},
		{`{{ with secret "kv/app" }}{{ .Data.data.pass }}{{ end }}`, true,
			`line 1, column 35: .Data.data.pass: secret has no key "pass"`},
	} {
		_, err := render(t, config.File{Template: c.template}, store(map[string]any{"user": "u"}, c.v2))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.template, err, c.want)
		}
	}
}

func TestLookupErrorComesBack(t *testing.T) {
	want := errors.New("sealed")
	lookup := func(Request) (*Secret, error) { return nil, want }
	for _, f := range []config.File{{Secret: "kv/app", Format: "env"}, {Template: `{{ with secret "kv/app" }}{{ end }}`}} {
		if _, err := render(t, f, lookup); err != want {
			t.Errorf("%+v: got %v", f, err)
		}
	}
}

// Between rounds nothing holds on to what the last one read.
func TestRendererForgetsSecrets(t *testing.T) {
	r, err := New(config.File{Path: "f", Template: `{{ with secret "kv/app" }}{{ .Data.k }}{{ end }}`}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	read := func() weak.Pointer[Secret] {
		s := NewSecret(View{Data: map[string]any{"k": "v"}}, false)
		if _, err := r.Render(func(Request) (*Secret, error) { return s, nil }, ""); err != nil {
			t.Fatal(err)
		}
		return weak.Make(s)
	}
	secret := read()
	for range 3 {
		runtime.GC()
	}
	if secret.Value() != nil {
		t.Error("the secret is still in memory")
	}
	runtime.KeepAlive(r)
}

func TestSecretDoesNotPrint(t *testing.T) {
	s := NewSecret(View{Data: map[string]any{"k": "s3cr3t"}}, false)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, s); strings.Contains(got, "s3cr3t") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
