package manifest

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	before := "a: 1\nb: 2\nc: 3\nd: 4\ne: 5\nf: 6\ng: 7\nh: 8\ni: 9\nj: 10\n"
	after := strings.Replace(before, "b: 2\n", "b: 2\nnew: true\n", 1)
	after = strings.Replace(after, "j: 10\n", "", 1)
	want := `@@ -1,5 +1,6 @@
 a: 1
 b: 2
+new: true
 c: 3
 d: 4
 e: 5
@@ -7,4 +8,3 @@
 g: 7
 h: 8
 i: 9
-j: 10
`
	if got := Diff([]byte(before), []byte(after)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := Diff([]byte(before), []byte(before)); got != "" {
		t.Errorf("equal texts differ:\n%s", got)
	}
}

// What is compared can be told from the edits, and none is spent in vain.
func TestCompareKeepsBothTexts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := func() []string {
		lines := make([]string, rng.IntN(12))
		for i := range lines {
			lines[i] = string(rune('a' + rng.IntN(3)))
		}
		return lines
	}
	for range 5000 {
		a, b := text(), text()
		var before, after []string
		changes := 0
		for _, e := range compare(a, b) {
			if e.kind != '+' {
				before = append(before, e.line)
			}
			if e.kind != '-' {
				after = append(after, e.line)
			}
			if e.kind != ' ' {
				changes++
			}
		}
		if strings.Join(before, "\n") != strings.Join(a, "\n") || strings.Join(after, "\n") != strings.Join(b, "\n") {
			t.Fatalf("%q, %q: edits make %q, %q", a, b, before, after)
		}
		if want := len(a) + len(b) - 2*common(a, b); changes != want {
			t.Fatalf("%q, %q: %d edits, %d would do", a, b, changes, want)
		}
	}
}

// common is the length of the longest common subsequence, by definition.
func common(a, b []string) int {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	row := make([]int, len(b)+1)
	for i := range a {
		diagonal := 0
		for j := range b {
			above := row[j+1]
			if a[i] == b[j] {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(row[j], above)
			}
			diagonal = above
		}
	}
	return row[len(b)]
}
