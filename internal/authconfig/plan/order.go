package plan

import (
	"cmp"
	"slices"
	"strings"
)

// Own reports whether the step is about a role of authconfig's own.
func (s *Step) Own() bool { return s.Kind == KindRole && s.Source == "" }

// String says what the step does, as "create role app (from team/roles)".
func (s *Step) String() string { return string(s.Verb) + s.what() }

// Doing is String for an error: "creating role app (from team/roles)".
func (s *Step) Doing() string { return strings.TrimSuffix(string(s.Verb), "e") + "ing" + s.what() }

func (s *Step) what() string {
	text := " " + string(s.Kind) + " " + s.Name
	if s.Source != "" {
		text += " (from " + s.Source + ")"
	}
	return text
}

// Empty reports whether there is nothing to do and nothing refused.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 && len(p.Refused) == 0 }

// RefusesMount reports whether the mount is not authconfig's, so that nothing
// happens in Vault.
func (p *Plan) RefusesMount() bool {
	return slices.ContainsFunc(p.Refused, func(r Refusal) bool { return r.Kind == KindMount })
}

// Add takes in what another planned, at its place in the order.
func (p *Plan) Add(steps []Step, refused []Refusal) {
	p.Steps = append(p.Steps, steps...)
	p.Refused = append(p.Refused, refused...)
	p.sort()
}

func (p *Plan) sort() {
	slices.SortStableFunc(p.Steps, func(a, b Step) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), cmp.Compare(a.Name, b.Name))
	})
	slices.SortStableFunc(p.Refused, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
}

func rank(s *Step) int {
	at := 2 * slices.Index(kinds, s.Kind)
	if s.Own() {
		at = 2*slices.Index(kinds, KindConfig) - 1
	}
	if s.Verb == Delete {
		return 4*len(kinds) - at
	}
	return at
}
