package strictyaml

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

type file struct {
	Name  string          `json:"name"`
	Every config.Duration `json:"every"`
	Whole bool            `json:"whole"`
	Items []struct {
		Only []string `json:"only"`
	} `json:"items"`
}

func TestDecode(t *testing.T) {
	restricting := map[string]string{"only": "a list; without it all"}
	for _, c := range []struct {
		yaml string
		want []string
	}{
		{"name: x\nevery: 5m\nwhole: true\nitems: [{only: [a]}]\n", nil},
		{"", nil},
		{"nam: x\nevery: 5\nwhole: \"yes\"\nitems: {}\n", []string{
			`nam: unknown key (did you mean "name"?)`,
			`every: duration 5 is not a string (such as "5m")`,
			"items: is a map (a list)",
			"whole: is a string (true or false)",
		}},
		{"every: soon\nname: 5\nitems: [{only: [1]}, {}, 3]\n", []string{
			`every: duration "soon" is not a number with a unit (such as "90s" or "5m")`,
			"items[0].only[0]: is a number (a string: quote it)",
			"items[2]: is a number (a map: only)",
			"name: is a number (a string: quote it)",
		}},
		{"items: [{only: }]\n", []string{"items[0].only: has no value (a list; without it all)"}},
		{"[]", []string{"the file: is a list (a map)"}},
	} {
		var f file
		unknown, wrong, err := Decode([]byte(c.yaml), &f, restricting)
		if err != nil {
			t.Errorf("%q: %v", c.yaml, err)
		}
		var got []string
		for _, p := range append(unknown, wrong...) {
			got = append(got, p.At+": "+p.Text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q:\n%s\nwant\n%s", c.yaml, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// What is no YAML is an error, and so is what no reader would look at.
func TestDecodeNoYAML(t *testing.T) {
	for yaml, want := range map[string]string{
		"name: [":                "reading YAML",
		"name: x\nname: y":       `key "name" already set`,
		"name: x\n---\nname: y":  "there is a second document",
		"name: x\n---\nname: [y": "there is a second document",
	} {
		_, _, err := Decode([]byte(yaml), new(file), nil)
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: %v, want %q", yaml, err, want)
		}
	}
}
