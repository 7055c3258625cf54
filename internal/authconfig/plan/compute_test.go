package plan_test

import (
	"reflect"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// At a mount that is made anew, or taken over, no login has proven anything. What
// is known of the cluster stays, such as the Secret that the last token is bound to.
func TestNothingIsProvenAtAnotherMount(t *testing.T) {
	before := plan.Record{
		Version: plan.RecordVersion, VaultCluster: "cluster-1", Mount: "kubernetes", Accessor: "auth_kubernetes_0", Tune: "x", Config: "x",
		Roles:    map[string]plan.RecordedRole{"app": {Source: "vault-auth/vault-auth-roles", Hash: "x"}},
		Reviewer: plan.Reviewer{Mode: "short-lived", Secret: "latchkey-reviewer-a", SecretUID: "1"},
	}
	target := plan.Target{Mount: "kubernetes", Type: "kubernetes", Tune: plan.Tune{Description: "x"}, Adopt: true}
	for name, mount := range map[string]*plan.Mount{"made": nil, "taken over": {Type: "kubernetes", Accessor: "auth_kubernetes_1"}} {
		got := plan.Compute(target, plan.Observed{Cluster: "cluster-1", Mount: mount}, before).Record
		want := plan.Record{
			Version: plan.RecordVersion, VaultCluster: "cluster-1", Mount: "kubernetes", Creating: mount == nil,
			Roles:    map[string]plan.RecordedRole{},
			Reviewer: plan.Reviewer{Secret: "latchkey-reviewer-a", SecretUID: "1"},
		}
		if mount != nil {
			want.Accessor = mount.Accessor
		}
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
