// Package suggest finds the known name that a misspelt one was probably meant to
// be.
package suggest

import "fmt"

// longest is how long a name can be that is compared with others, in bytes: no
// container's is longer, nor is any of ours.
const longest = 63

// DidYouMean is a hint at the name that was probably meant, or nothing.
func DidYouMean(name string, known []string) string {
	// Of a short name more edits would leave nothing.
	best, least := "", min(max(2, len(name)/3), len(name)-1)+1
	for _, k := range known {
		if max(len(name), len(k)) > longest {
			continue
		}
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// distance is the number of single-byte edits from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
