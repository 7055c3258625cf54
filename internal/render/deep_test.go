package render

import (
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Whoever may write a secret cannot make a file of hundreds of MiB of one that
// is small, by lists that lie deep in each other, and end the agents that read it.
func TestDeepSecretsAreNotIndented(t *testing.T) {
	list := make([]any, 20_000)
	var deep, shallow any = list, list
	for range 5000 {
		deep = []any{deep}
	}
	for range 50 {
		shallow = []any{shallow}
	}
	render := func(f config.File, v any) (files []Output, err error) {
		t.Helper()
		f.Path = "a"
		r, err := New(f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := r.Render(func(Request) (*Secret, error) { return NewSecret(View{Data: map[string]any{"a": v}}, false), nil }, "")
		return out.Files, err
	}
	for name, f := range map[string]config.File{
		"json":                  {Secret: "kv/a", Format: config.FormatJSON},
		"yaml":                  {Secret: "kv/a", Format: config.FormatYAML},
		"toJSONPretty":          {Template: `{{ with secret "kv/a" }}{{ toJSONPretty .Data.a }}{{ end }}`},
		"toUnescapedJSONPretty": {Template: `{{ with secret "kv/a" }}{{ toUnescapedJSONPretty .Data.a }}{{ end }}`},
		"toYAML":                {Template: `{{ with secret "kv/a" }}{{ toYAML .Data.a }}{{ end }}`},
	} {
		if _, err := render(f, deep); err == nil || !strings.Contains(err.Error(), "so deep does it lie in itself") {
			t.Errorf("%s: %v", name, err)
		}
		if files, err := render(f, shallow); err != nil || len(files) != 1 {
			t.Errorf("%s of what lies less deep: %v", name, err)
		}
	}
	// Without lines there is nothing to indent.
	for _, f := range []config.File{{Secret: "kv/a", Format: config.FormatEnv}, {Template: `{{ with secret "kv/a" }}{{ toJSON .Data.a }}{{ end }}`}} {
		if _, err := render(f, deep); err != nil {
			t.Error(err)
		}
	}
	// This once ended the agent by overflowing its stack.
	itself := `{{ scratch.MapSet "m" "m" "" }}{{ scratch.MapSet "m" "m" (scratch.Get "m") }}{{ toYAML (scratch.Get "m") }}`
	if _, err := render(config.File{Template: itself}, ""); err == nil || !strings.Contains(err.Error(), "so deep does it lie in itself") {
		t.Errorf("a value that holds itself: %v", err)
	}
}
