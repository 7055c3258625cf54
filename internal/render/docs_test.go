package render

import (
	"os"
	"strings"
	"testing"
)

// Every function is in the documentation, and nothing that is refused is
// documented as there.
func TestEveryFunctionIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/templates.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for _, name := range Functions() {
		if !strings.Contains(page, "`"+name+"`") && !strings.Contains(page, "`"+name+" ") {
			t.Errorf("docs/templates.md lacks %s", name)
		}
	}
	for name := range refused {
		if strings.Contains(page, "| `"+name+"`") || strings.Contains(page, "| `"+name+" ") {
			t.Errorf("docs/templates.md has %s, which is refused", name)
		}
	}
}
