package authconfig

import (
	"errors"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// What plan and apply end with: scripts go by that. A key that nobody understands
// is a difference, and so is what is refused.
func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		plan    plan.Plan
		err     error
		differs bool
		outcome string // of the round that carried out the plan; empty is none
	}{
		"nothing":   {},
		"a step":    {plan: plan.Plan{Steps: []plan.Step{{Verb: plan.Create, Kind: plan.KindRole, Name: "app"}}}, differs: true},
		"a failure": {plan: plan.Plan{Steps: []plan.Step{{Verb: plan.Create, Kind: plan.KindRole, Name: "app"}}}, err: errors.New("denied"), differs: true, outcome: "denied"},
		"a problem": {plan: plan.Plan{Problems: []desired.Problem{{Source: source, Key: "app"}}}, differs: true, outcome: "1 of what is wanted could not be done"},
		"a refusal": {plan: plan.Plan{Refused: []plan.Refusal{{Kind: plan.KindMount}}, Problems: []desired.Problem{{Source: source}}}, differs: true,
			outcome: "2 of what is wanted could not be done"},
	} {
		look := &Look{Plan: c.plan}
		if got := look.differs(); got != c.differs {
			t.Errorf("%s: that it differs is %t", name, got)
		}
		got := ""
		if err := (&Round{Look: look, Err: c.err}).outcome(); err != nil {
			got = err.Error()
		}
		if got != c.outcome {
			t.Errorf("%s: the outcome is %q, want %q", name, got, c.outcome)
		}
	}
	down := errors.New("Vault is down")
	if err := (&Round{Err: down}).outcome(); err != down {
		t.Errorf("where not even a look was possible the outcome is %v", err)
	}
}
