package suggest

import (
	"strings"
	"testing"
)

func TestDidYouMean(t *testing.T) {
	known := []string{"files", "refresh", "role", "inject"}
	for name, want := range map[string]string{
		"file": "files", "refesh": "refresh", "Inject": "inject", "rloe": "role",
		"something-else": "", "x": "", "ole": "role", "xy": "", "abc": "", "": "",
		strings.Repeat("r", 64): "",
	} {
		got := DidYouMean(name, known)
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
