package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// context is how many unchanged lines stand around a change.
const context = 3

// edit is a line that both texts have (' '), or only the first ('-') or only
// the second ('+').
type edit struct {
	kind byte
	line string
}

// Diff is the difference of two texts in the unified form, without the lines
// that name them; empty where there is none.
func Diff(before, after []byte) string {
	edits := compare(lines(before), lines(after))
	var b strings.Builder
	oldLine, newLine := 1, 1 // of edits[i]
	for i := 0; i < len(edits); {
		if edits[i].kind == ' ' {
			i, oldLine, newLine = i+1, oldLine+1, newLine+1
			continue
		}
		// The hunk goes on while changes are close enough to share context.
		start, end := max(0, i-context), i
		for same := 0; end < len(edits) && same <= 2*context; end++ {
			if same++; edits[end].kind != ' ' {
				same = 0
			}
		}
		for end > i && edits[end-1].kind == ' ' {
			end--
		}
		end = min(len(edits), end+context)
		hunk := edits[start:end]
		count := func(not byte) (n int) {
			for _, e := range hunk {
				if e.kind != not {
					n++
				}
			}
			return n
		}
		fmt.Fprintf(&b, "@@ -%d,%d +%d,%d @@\n", oldLine-(i-start), count('+'), newLine-(i-start), count('-'))
		for _, e := range hunk {
			fmt.Fprintf(&b, "%c%s\n", e.kind, e.line)
		}
		for _, e := range edits[i:end] {
			if e.kind != '+' {
				oldLine++
			}
			if e.kind != '-' {
				newLine++
			}
		}
		i = end
	}
	return b.String()
}

func lines(text []byte) []string {
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// compare is Myers' algorithm ("An O(ND) Difference Algorithm and Its
// Variations", 1986): the fewest edits from a to b.
func compare(a, b []string) []edit {
	// trace[d][k+d] is the furthest x on diagonal k = x - y after d edits;
	// only every second diagonal can be reached.
	trace := [][]int{{snake(a, b, 0, 0)}}
	for d := 0; !finished(trace[d], d, len(a), len(b)); d++ {
		next := make([]int, 2*d+3)
		for i := 0; i < len(next); i += 2 {
			k := i - d - 1
			from := origin(trace[d], k, d+1)
			x := trace[d][from+d]
			if from < k {
				x++
			}
			next[i] = snake(a, b, x, k)
		}
		trace = append(trace, next)
	}
	// Back along the way that led to the end.
	var edits []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d >= 0; d-- {
		fromX, fromY := 0, 0
		if d > 0 {
			from := origin(trace[d-1], x-y, d)
			fromX = trace[d-1][from+d-1]
			fromY = fromX - from
		}
		for x > fromX && y > fromY {
			x, y = x-1, y-1
			edits = append(edits, edit{' ', a[x]})
		}
		switch {
		case x > fromX:
			x--
			edits = append(edits, edit{'-', a[x]})
		case y > fromY:
			y--
			edits = append(edits, edit{'+', b[y]})
		}
	}
	slices.Reverse(edits)
	return edits
}

// origin is the diagonal from which the d-th edit reaches diagonal k.
func origin(before []int, k, d int) int {
	at := func(k int) int { return before[k+d-1] }
	if k == -d || k != d && at(k-1) < at(k+1) {
		return k + 1
	}
	return k - 1
}

// snake is how far the lines agree from x on diagonal k.
func snake(a, b []string, x, k int) int {
	for x < len(a) && x-k < len(b) && x >= k && a[x] == b[x-k] {
		x++
	}
	return x
}

func finished(furthest []int, d, n, m int) bool {
	i := n - m + d
	return i >= 0 && i < len(furthest) && i%2 == 0 && furthest[i] >= n
}
