package mutate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problems is everything that is wrong with one input, each as
// `where: what (what is allowed)`.
type Problems []string

// longest is how much is told of a problem and of its place, in bytes: a value
// that is quoted there can be of any length.
const longest = 600

func (p *Problems) add(where, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	*p = append(*p, visible(shorten(where, longest)+": "+shorten(what, longest)))
}

// sorted puts the problems in the order of their places, and those of one place
// in the order in which they stand there.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b string) int { return strings.Compare(place(a), place(b)) })
	return slices.Compact(p)
}

// place is where a problem is.
func place(problem string) string {
	where, _, _ := strings.Cut(problem, ": ")
	return where
}

// err is p as an error, nil where there is no problem.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p.sorted()
}

// Error is the problem itself, or a list with one problem a line.
func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%d problems:\n  %s", len(p), strings.Join(p.told(), "\n  "))
}

// told is p, or its beginning and how many more there are.
func (p Problems) told() []string {
	if len(p) <= maxTold {
		return p
	}
	return append(slices.Clone(p[:maxTold]), fmt.Sprintf("and %d more", len(p)-maxTold))
}

// wrongType is how a JSON decoder words a value of the wrong type.
var wrongType = regexp.MustCompile(`^json: cannot unmarshal (\S+).* into Go struct field \w*\.(\S+) of type (\S+)$`)

// typeProblem says which field of a document has a value of the wrong type,
// without naming types of ours. Other errors it returns as they are.
func typeProblem(err error) error {
	m := wrongType.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	is, want := m[1], strings.TrimLeft(m[3], "*")
	switch {
	case strings.HasPrefix(want, "[]"):
		want = "list"
	case strings.Contains(want, "."), strings.HasPrefix(want, "map["):
		want = "map"
	case want == "string" && (is == "number" || is == "bool"):
		want = "string: quote it"
	}
	is = strings.NewReplacer("array", "list", "object", "map").Replace(is)
	return fmt.Errorf("%s: is a %s (a %s)", m[2], is, want)
}
