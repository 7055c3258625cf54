package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// mebibyte is what the API server takes in a ConfigMap.
const mebibyte = 1 << 20

// fill wants as many roles of a source, with names as long as keys can be.
func fill(t *Target, source string, n int) {
	for i := range n {
		name := fmt.Sprintf("%s%06d", strings.Repeat(source[:1], 247), i)
		t.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: desired.Fields{}}
	}
}

// round is what the record becomes when all steps are noted and not done yet,
// and how many roles of a source it has.
func round(t *testing.T, target Target, o Observed, r Record) (Record, map[string]int, Plan) {
	t.Helper()
	p := Compute(target, o, r)
	r = p.Record
	for _, s := range p.Steps {
		if s.Kind == KindRole && s.Verb != Delete {
			r.Roles[s.Name] = RecordedRole{Source: s.Source, Hash: Hash(s.After), Next: Hash(s.After)}
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > mebibyte {
		t.Errorf("the record has %d bytes", len(text))
	}
	roles := map[string]int{}
	for _, role := range r.Roles {
		roles[role.Source]++
	}
	return r, roles, p
}

// Whoever fills one ConfigMap with roles leaves others their room in the record,
// which stays one that can be stored: else nothing could be done any more.
func TestOneConfigMapLeavesOthersRoomInTheRecord(t *testing.T) {
	roles := func() desired.Roles {
		return desired.Roles{Complete: true, Roles: map[string]desired.Role{}}
	}
	o := Observed{Cluster: "one", Mount: &Mount{Type: desired.Kubernetes, Accessor: "a"}, Config: desired.Fields{}, Roles: map[string]desired.Fields{}}
	r := Record{Version: RecordVersion, VaultCluster: "one", Mount: "m", Accessor: "a"}
	target := Target{Mount: "m", Type: desired.Kubernetes, Config: desired.Fields{}, Sources: []string{"xeno/roles", "good/roles"}, Roles: roles()}
	fill(&target, "xeno/roles", 4096)
	r, noted, p := round(t, target, o, r)
	if noted["xeno/roles"] < 1000 || noted["xeno/roles"]+len(p.Refused) != 4096 || !strings.Contains(p.Refused[0].Text, "no room") {
		t.Fatalf("noted are %v, and refused are %d", noted, len(p.Refused))
	}
	for name := range r.Roles {
		o.Roles[name] = desired.Fields{}
	}
	// Others are added, and all names of the first are other ones.
	target.Roles = roles()
	fill(&target, "good/roles", 400)
	for i := range 4096 {
		name := fmt.Sprintf("other%d", i)
		target.Roles.Roles[name] = desired.Role{Source: "xeno/roles", Key: name, Fields: desired.Fields{}}
	}
	_, noted, p = round(t, target, o, r)
	if noted["good/roles"] != 400 {
		t.Errorf("noted are %v", noted)
	}
	for _, s := range p.Steps {
		if s.Verb == Delete {
			t.Fatalf("%s though what may be its new name has no room", s.String())
		}
	}
	// One ConfigMap alone has all the room.
	target.Roles, target.Sources = roles(), []string{"good/roles"}
	fill(&target, "good/roles", 1900)
	if _, _, p = round(t, target, Observed{Cluster: "two"}, Record{}); len(p.Refused) > 0 {
		t.Errorf("%d of 1900 are refused: %s", len(p.Refused), p.Refused[0].Text)
	}
}
