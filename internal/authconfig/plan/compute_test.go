package plan_test

import (
	"reflect"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// At a mount that was made anew, or is taken over, no login has proven anything.
// What is known of the cluster stays, such as the Secret that the last token is
// bound to. Until the mount is made nothing is forgotten.
func TestNothingIsProvenAtAnotherMount(t *testing.T) {
	before := plan.Record{
		Version: plan.RecordVersion, VaultCluster: "cluster-1", Mount: "kubernetes", Accessor: "auth_kubernetes_0", Tune: "x", Config: "x",
		Roles:    map[string]plan.RecordedRole{"app": {Source: "vault-auth/vault-auth-roles", Hash: "x"}},
		Reviewer: plan.Reviewer{Mode: "short-lived", Secret: "latchkey-reviewer-a", SecretUID: "1"},
	}
	target := plan.Target{Mount: "kubernetes", Type: "kubernetes", Tune: plan.Tune{Description: "x"}, Adopt: true}
	compute := func(mount *plan.Mount, r plan.Record) plan.Record {
		return plan.Compute(target, plan.Observed{Cluster: "cluster-1", Mount: mount}, r).Record
	}
	toBeMade := before.Clone()
	toBeMade.Creating = true
	if got := compute(nil, before); !reflect.DeepEqual(got, toBeMade) {
		t.Errorf("to be made: the record is\n%+v\nand not\n%+v", got, toBeMade)
	}
	made := toBeMade.Clone()
	made.Made("auth_kubernetes_1")
	other := &plan.Mount{Type: "kubernetes", Accessor: "auth_kubernetes_1"}
	for name, got := range map[string]plan.Record{
		"made": made, "made, and not noted": compute(other, toBeMade), "taken over": compute(other, before),
	} {
		want := plan.Record{
			Version: plan.RecordVersion, VaultCluster: "cluster-1", Mount: "kubernetes", Accessor: "auth_kubernetes_1",
			Roles:    map[string]plan.RecordedRole{},
			Reviewer: plan.Reviewer{Secret: "latchkey-reviewer-a", SecretUID: "1"},
		}
		got.Tune = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the record is\n%+v\nand not\n%+v", name, got, want)
		}
	}
}

func TestACloneSharesNothing(t *testing.T) {
	r := plan.Record{
		Roles:    map[string]plan.RecordedRole{"app": {Hash: "x"}},
		Reviewer: plan.Reviewer{Keys: map[string]plan.Key{"one": {PEM: "x"}}},
	}
	c := r.Clone()
	clear(c.Roles)
	clear(c.Reviewer.Keys)
	if len(r.Roles) != 1 || len(r.Reviewer.Keys) != 1 {
		t.Errorf("clearing the clone left %+v", r)
	}
}
