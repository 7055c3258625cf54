package render

import (
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`plain text`, ``},
		{`{{ with secret "kv/app" }}{{ .Data.password | trimSpace | toJSON }}{{ end }}`, ``},
		{`{{ "YQ==" | base64Decode | base64Encode | base64URLEncode | base64URLDecode }}`, ``},
		{`{{ "a" | trim "a" | trimPrefix "b" | trimSuffix "c" | indent 4 }}`, ``},
		{"a\nb {{ nope 1 }}\n", `line 2, column 6: function "nope" not defined`},
		{"é {{nope}}", `line 1, column 6: function "nope" not defined`},
		{"{{ if true }}\n{{ env \"HOME\" }}{{ end }}", `line 2, column 4: function "env" not defined`},
		{"{{ nope }} {{ nope }}", `line 1, column 4: function "nope" not defined`},
		{"{{ .A | nope }}", `line 1, column 9: function "nope" not defined`},
		{"{{ $x }}", `line 1, column 4: undefined variable "$x"`},
		{"x\n\n{{ end }}", `line 3, column 4: unexpected {{end}}`},
		{"{{ \"a }}", `line 1, column 1: unterminated quoted string`},
		{"{{ if .A }}", `line 1, column 10: unexpected EOF`},
		{"{{ if }}{{ end }}", `line 1, column 7: missing value for if`},
		{"{{ break }}", `line 1, column 4: {{break}} outside {{range}}`},
		{"{{ 1 | 2 }}", `line 1, column 10: non executable command in pipeline stage 2`},
		{"{{ ( }}", `line 1`},
		{"{{ . \n", `line 2`},
		{"a\n{{ template \"x\" }}", `line 2, column 13: template "x" not defined`},
		{`{{ define "x" }}{{ with secret "a" "k=v" }}{{ end }}{{ end }}`, `line 1, column 25: secret takes one path, not 2 arguments`},
		{`{{ "kv/app" | secret }}{{ define "x" }}{{ end }}{{ template "x" }}`, ``},
		{`{{ if true }}{{ else }}{{ (secret "../sys").Data.x }}{{ end }}`, `line 1, column 35: secret "../sys" is no path`},
		{`{{ range secret "kv/app?list=true" }}{{ end }}`, `line 1, column 17: secret "kv/app?list=true" has a query`},
		{`{{ secret }}`, `line 1, column 4: secret takes one path, not 0 arguments`},
		{`{{ plugin "x" }}`, `line 1, column 4: function "plugin" not defined`},
	} {
		err := Check(config.File{Path: "f", Template: c.template})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.template, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), `path "f": `+c.want)):
			t.Errorf("%q:\n got %v\nwant path \"f\": %s", c.template, err, c.want)
		}
	}
}

// A pod's author must not be able to keep the injector busy with one long line.
func TestCheckLongLine(t *testing.T) {
	text := "a\n" + strings.Repeat("{{ .A }} ", 100_000) + "{{ nope }}"
	start := time.Now()
	err := Check(config.File{Path: "f", Template: text})
	if err == nil || !strings.HasPrefix(err.Error(), `path "f": line 2: function "nope"`) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestCheckWithoutTemplate(t *testing.T) {
	if err := Check(config.File{Path: "f", Secret: "kv/app", Format: config.FormatEnv}); err != nil {
		t.Error(err)
	}
}
