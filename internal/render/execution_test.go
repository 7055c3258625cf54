package render

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// What a template does to its copy of a secret neither another entry sees nor
// its own next pass.
func TestTemplateChangesItsCopyOnly(t *testing.T) {
	s := NewSecret(View{RequestID: "id", Data: map[string]any{"map": map[string]any{"a": "1"}, "list": []any{map[string]any{"b": "2"}}}}, false)
	const text = `{{ with secret "kv/app" }}{{ $_ := sprig_set .Data.map "a" "x" }}{{ $_ := sprig_set (index .Data.list 0) "b" "y" }}{{ (secret "kv/app").Data | toJSON }}{{ end }}`
	for range 2 {
		got, err := render(t, config.File{Template: text}, func(Request) (*Secret, error) { return s, nil })
		if want := `{"list":[{"b":"y"}],"map":{"a":"x"}}`; err != nil || got != want {
			t.Errorf("got %q (%v), want %q", got, err, want)
		}
		got, err = render(t, config.File{Secret: "kv/app", Format: "raw", Key: "map"}, func(Request) (*Secret, error) { return s, nil })
		if want := `{"a":"1"}`; err != nil || got != want {
			t.Errorf("another entry sees %q (%v), want %q", got, err, want)
		}
	}
}

// The ID of a request is another at each read, so that a file with it would be
// another as well.
func TestRequestIDIsLeftOut(t *testing.T) {
	got, err := render(t, config.File{Template: `[{{ (secret "kv/app").RequestID }}]`}, func(Request) (*Secret, error) { return NewSecret(View{RequestID: "id"}, false), nil })
	if err != nil || got != "[]" {
		t.Errorf("got %q (%v)", got, err)
	}
}

// A template that would give other bytes each time gives others only when
// something that it is made of is another.
func TestInputsOfUnsteadyTemplate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shown")
	now := View{LeaseID: "db/creds/app/1", Data: map[string]any{"user": "ada"}}
	inputs := func(text string) string {
		t.Helper()
		r, err := New(config.File{Path: "f", Template: text}, Options{Show: config.Show{Dirs: []string{filepath.Dir(file)}}})
		if err != nil {
			t.Fatal(err)
		}
		result, err := r.Render(func(Request) (*Secret, error) { return NewSecret(now, false), nil }, "")
		if err != nil {
			t.Fatal(err)
		}
		return result.Inputs
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := `{{ timestamp }}{{ (secret "db/creds/app").Data.user }}{{ file "` + file + `" }}`
	write("one")
	before := inputs(text)
	if before == "" || inputs(text) != before {
		t.Fatalf("inputs %q and %q of the same", before, inputs(text))
	}
	for what, change := range map[string]func(){
		"the secret":   func() { now.Data = map[string]any{"user": "grace"} },
		"the lease":    func() { now.LeaseID = "db/creds/app/2" },
		"the file":     func() { write("two") },
		"the template": func() { text += " " },
	} {
		change()
		after := inputs(text)
		if after == before {
			t.Errorf("%s changed, and the inputs are the same", what)
		}
		before = after
	}
}

// Whatever gives another result each time is known to.
func TestUnsteadyFunctionsAreKnown(t *testing.T) {
	var texts []string
	for _, name := range Functions() {
		if strings.HasPrefix(name, "sprig_gen") { // keys and certificates, which take seconds
			if !unsteady[name] {
				t.Errorf("%s is not taken for unsteady", name)
			}
			continue
		}
		for _, args := range []string{"", " .s", " .n", " .m", " .l", ` .s .s`, ` 1 .s`, ` "a" .s`, ` .m .s`, " 0 1000000"} {
			texts = append(texts, `{{ with (secret "kv/app").Data.data }}{{ `+name+args+` }}{{ end }}`)
		}
	}
	different := 0
	for _, text := range texts {
		r, err := New(config.File{Path: "f", Template: text}, Options{})
		if err != nil {
			continue
		}
		var made [2]string
		for i := range made {
			result, err := r.Render(plantedLookup, "")
			if err != nil {
				break
			}
			made[i] = string(result.Files[0].Content.Reveal())
		}
		if made[0] == made[1] {
			continue
		}
		different++
		if !r.unsteady {
			t.Errorf("%s gives %q and %q, and is not taken for unsteady", text, made[0], made[1])
		}
	}
	if different < 5 {
		t.Errorf("%d templates give other results each time: the test finds too few", different)
	}
}

// YAML 1.1 takes a number with an exponent for a string unless it has a point
// and the exponent a sign.
func TestYAMLExponents(t *testing.T) {
	for number, want := range map[string]string{"1e6": "1.0e+6", "-2.5E-3": "-2.5e-3", "1E+2": "1.0e+2", "12": "12"} {
		if got := yamlNumber(json.Number(number)); got != want {
			t.Errorf("%s: got %s, want %s", number, got, want)
		}
	}
}
