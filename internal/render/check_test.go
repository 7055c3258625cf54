package render

import (
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`plain text`, ``},
		{`{{ with secret "kv/app" }}{{ .Data.password | trimSpace | toJSON }}{{ end }}`, ``},
		{`{{ "YQ==" | base64Decode | base64Encode | base64URLEncode | base64URLDecode }}`, ``},
		{`{{ "a" | trim "a" | trimPrefix "b" | trimSuffix "c" | indent 4 }}`, ``},
		{"a\nb {{ nope 1 }}\n", `line 2, column 6: function "nope" not defined`},
		{"{{ .A | toJson }}", `line 1, column 9: function "toJson" not defined (did you mean "toJSON"?)`},
		{"{{ b64enc .A }}", `line 1, column 4: function "b64enc" not defined (did you mean "sprig_b64enc"?)`},
		{"é {{nope}}", `line 1, column 6: function "nope" not defined`},
		{"{{ if true }}\n{{ env \"HOME\" }}{{ end }}", `line 2, column 8: variable "HOME" is not shown to templates (none is)`},
		{"{{ nope }} {{ nope }}", `line 1, column 4: function "nope" not defined`},
		{"{{ .A | nope }}", `line 1, column 9: function "nope" not defined`},
		{"{{ $x }}", `line 1, column 4: undefined variable "$x"`},
		{"x\n\n{{ end }}", `line 3, column 4: unexpected {{end}}`},
		{"{{ \"a }}", `line 1, column 4: unterminated quoted string`},
		{"{{ if .A }}", `line 1, column 10: unexpected EOF ({{ end }} for each if, with, range, block and define)`},
		{`{{ .Data.user-name }}`, `line 1, column 14: bad character U+002D '-' (a path in quotes, a key as in {{ index .Data.data "user-name" }})`},
		{`{{ with .A }}{{ secret kv/a }}{{ end }}`, `line 1, column 26: bad character U+002F '/' (a path in quotes`},
		{"{{ .A\n  .user-name }}", `line 2, column 8: bad character U+002D '-'`},
		{"{{ if }}{{ end }}", `line 1, column 7: missing value for if`},
		{"{{ break }}", `line 1, column 4: {{break}} outside {{range}}`},
		{"{{ 1 | 2 }}", `line 1, column 10: non executable command in pipeline stage 2`},
		{"{{ ( }}", `line 1`},
		{"{{ . \n", `line 2`},
		{"a\n{{ template \"x\" }}", `line 2, column 13: template "x" not defined`},
		{`{{ define "x" }}{{ with secret "a" "k=v" }}{{ end }}{{ end }}`, ``},
		{`{{ "kv/app" | secret }}{{ define "x" }}{{ end }}{{ template "x" }}`, ``},
		{`{{ if true }}{{ else }}{{ (secret "../sys").Data.x }}{{ end }}`, `line 1, column 35: secret "../sys" is no path`},
		{`{{ range secret "kv/app?list=true" }}{{ end }}`, `line 1, column 17: secret "kv/app?list=true" has a query`},
		{`{{ secret }}`, `line 1, column 4: secret takes a path, and parameters for a write, not 0 arguments`},
		{`{{ plugin "x" }}`, `line 1, column 4: function "plugin" runs programs, which the agent does not (`},
		{`{{ "a" | writeToFile "/x" "" "" "0644" }}`, `line 1, column 10: function "writeToFile" writes a file while`},
		{`{{ key "a" }}`, `line 1, column 4: function "key" asks Consul`},
		{`{{ range nomadServices }}{{ end }}`, `line 1, column 10: function "nomadServices" asks Nomad`},
		{`{{ spew_dump . }}`, `line 1, column 4: function "spew_dump" prints values for debugging`},
		{`{{ sprig_env "HOME" }}`, `line 1, column 4: function "sprig_env" not defined`},
		{`{{ printf "%s" (nope) }}`, `line 1, column 17: function "nope" not defined`},
		{"{{ nope }}\n{{ if }}", `line 2, column 7: missing value for if`},
		{`{{ define "a" }}{{ nope1 }}{{ end }}{{ nope2 }}{{ define "b" }}{{ nope3 }}{{ end }}`, `line 1, column 20: function "nope1" not defined`},
		{`{{ secret "pki/issue/a" "common_name" }}`, `line 1, column 25: secret has parameter "common_name" (name=value)`},
		{`{{ secret "kv/data/a?version=1" "a=b" }}`, `line 1, column 11: secret "kv/data/a?version=1" has a query (none with a write or a list)`},
		{`{{ secrets "kv/" "x" }}`, `line 1, column 4: secrets takes one path, not 2 arguments`},
		{`{{ pkiCert }}`, `line 1, column 4: pkiCert takes a path and parameters, not 0 arguments`},
		{`{{ file "/etc/passwd" }}`, `line 1, column 9: file "/etc/passwd" is not shown to templates (none is)`},
		{`{{ $x := secret "kv/app" }}{{ $x.Data.a | sprig_default "b" | sprig_quote }}`, ``},
	} {
		err := Check(config.File{Path: "f", Template: c.template}, Options{})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.template, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), `path "f": `+c.want)):
			t.Errorf("%q:\n got %v\nwant path \"f\": %s", c.template, err, c.want)
		}
	}
}

// A pod's author must not be able to keep the injector busy with one long line:
// a column that is looked for by trying takes hours here.
func TestCheckLongLine(t *testing.T) {
	text := "a\n" + strings.Repeat("{{ .A }} ", 100_000) + "{{ nope }}"
	err := Check(config.File{Path: "f", Template: text}, Options{})
	if err == nil || !strings.HasPrefix(err.Error(), `path "f": line 2, column 900004: function "nope"`) {
		t.Errorf("got %v", err)
	}
}

// Anybody may have the injector check a template: what is wrong with it costs no
// more to word where it is wrong in many places.
func TestCheckWordsOneError(t *testing.T) {
	check := func(text string) (allocations float64) {
		return testing.AllocsPerRun(1, func() {
			if err := Check(config.File{Path: "a", Template: text}, Options{}); err == nil || err.Error() != `path "a": line 1, column 3: function "nope" not defined` {
				t.Errorf("got %v", err)
			}
		})
	}
	one, many := check("{{nope}}"+strings.Repeat("{{1}}", 5000)), check(strings.Repeat("{{nope}}", 5001))
	if many > 2*one {
		t.Errorf("one unknown function takes %.0f allocations, many take %.0f", one, many)
	}
}

func TestCheckWithoutTemplate(t *testing.T) {
	if err := Check(config.File{Path: "f", Secret: "kv/app", Format: config.FormatEnv}, Options{}); err != nil {
		t.Error(err)
	}
}
