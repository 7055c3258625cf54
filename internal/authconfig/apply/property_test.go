package apply_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

const source = "vault-auth/vault-auth-roles"

func role(policy string) desired.Fields {
	return desired.Fields{"token_policies": []string{policy}, "token_ttl": int64(60)}
}

// scene draws a Vault, a record and a target.
func scene(r *rand.Rand) (*memory, plan.Target) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	m := &memory{cluster: "cluster-1", crashAt: -1, roles: map[string]desired.Fields{}}
	record := plan.Record{Version: plan.RecordVersion, VaultCluster: pick("cluster-1", "cluster-1", "cluster-1", "cluster-2"), Mount: "kubernetes", Roles: map[string]plan.RecordedRole{}}
	target := plan.Target{
		Mount: "kubernetes", Type: "kubernetes", Config: desired.Fields{"kubernetes_host": "https://api"},
		Own: map[string]desired.Role{"probe": {Fields: role("none")}}, Sources: []string{source},
		Roles: desired.Roles{Roles: map[string]desired.Role{}, Complete: r.IntN(4) > 0}, Adopt: r.IntN(3) == 0,
	}
	if r.IntN(5) > 0 {
		m.mount = &plan.Mount{Type: pick("kubernetes", "kubernetes", "kubernetes", "kubernetes", "userpass"), Accessor: "a0", Tune: plan.Tune{Description: pick("", "old")}}
		record.Accessor = pick("a0", "a0", "a0", "a1")
		if r.IntN(4) > 0 {
			m.config = desired.Fields{"kubernetes_host": pick("https://api", "https://old")}
		} else if r.IntN(2) == 0 {
			record.Accessor, record.Creating = "", true
		}
		for _, name := range []string{"a", "b", "c", "d", "probe"} {
			if r.IntN(3) > 0 {
				m.roles[name] = role(pick("x", "y", "z", "none"))
			}
		}
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "probe"} {
		if r.IntN(2) == 0 {
			noted := plan.RecordedRole{Source: pick(source, source, "old/roles"), Hash: plan.Hash(role(pick("x", "y", "z"))), Creating: r.IntN(5) == 0}
			if f, ok := m.roles[name]; ok && r.IntN(2) == 0 {
				noted.Hash = plan.Hash(f)
			}
			if r.IntN(5) == 0 && !noted.Creating {
				noted.Next = plan.Hash(role(pick("x", "y", "z")))
			}
			record.Roles[name] = noted
		}
		switch {
		case name == "probe":
		case r.IntN(2) == 0:
			target.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: role(pick("x", "y", "z"))}
		case r.IntN(5) == 0:
			target.Roles.Problems = append(target.Roles.Problems, desired.Problem{Source: source, Key: name, Role: name, Text: "broken"})
		}
	}
	if r.IntN(4) > 0 {
		m.record, _ = json.Marshal(record) // it has no field that could fail
	}
	return m, target
}

// mayTouch is the rule of ownership, said once more and without the plan: what
// may be changed or deleted.
func mayTouch(m *memory, target plan.Target, record plan.Record, name string) bool {
	wanted := false
	if _, ok := target.Own[name]; ok {
		wanted = true
	}
	if w, ok := target.Roles.Roles[name]; ok {
		wanted = !target.Roles.Untouched(name, w.Source)
	}
	if m.mount == nil {
		return true
	}
	if m.mount.Type != target.Type {
		return false
	}
	oursMount := record.VaultCluster == m.cluster && record.Mount == target.Mount &&
		(record.Accessor == m.mount.Accessor || record.Creating && record.Accessor == "" && m.config == nil)
	if !oursMount && !target.Adopt {
		return false
	}
	if target.Adopt && wanted {
		return true
	}
	noted, ours := record.Roles[name]
	hash := plan.Hash(m.roles[name])
	written := hash == noted.Hash || noted.Next != "" && hash == noted.Next
	if !oursMount || !ours || noted.Creating && !written {
		return false
	}
	if target.Roles.Untouched(name, noted.Source) {
		return false
	}
	return wanted || written
}

func TestNothingOfOthersIsTouched(t *testing.T) {
	for seed := range uint64(2000) {
		m, target := scene(rand.New(rand.NewPCG(seed, 1)))
		before, record := m.clone(), m.stored(t)
		if _, err, _ := m.run(t, target); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for name, fields := range before.roles {
			if !mayTouch(before, target, record, name) && !reflect.DeepEqual(m.roles[name], fields) {
				t.Fatalf("seed %d: role %s was %v and is %v", seed, name, fields, m.roles[name])
			}
		}
		if before.mount != nil && before.mount.Type != target.Type && len(m.effects) > 0 {
			t.Fatalf("seed %d: at a mount of another type: %q", seed, m.effects)
		}
	}
}

func TestASecondRunHasNothingToDo(t *testing.T) {
	for seed := range uint64(2000) {
		m, target := scene(rand.New(rand.NewPCG(seed, 2)))
		if _, err, _ := m.run(t, target); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m.effects = nil
		p := m.plan(t, target)
		if len(p.Steps) > 0 {
			t.Fatalf("seed %d: still to do: %v", seed, p.Steps)
		}
		if _, err, _ := m.run(t, target); err != nil || len(m.effects) > 0 {
			t.Fatalf("seed %d: with nothing to do, it did %q (%v)", seed, m.effects, err)
		}
	}
}

func TestARunThatIsCutShortAnywhereIsMadeGood(t *testing.T) {
	for seed := range uint64(300) {
		start, target := scene(rand.New(rand.NewPCG(seed, 3)))
		whole := start.clone()
		if _, err, _ := whole.run(t, target); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for at := 0; ; at++ {
			m := start.clone()
			m.crashAt = at
			_, _, ended := m.run(t, target)
			if ended {
				break
			}
			m.crashAt = -1
			where := fmt.Sprintf("seed %d, cut short at %d after %q", seed, at, m.effects)
			if _, err, _ := m.run(t, target); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			if p := m.plan(t, target); len(p.Steps) > 0 {
				t.Fatalf("%s: still to do: %v", where, p.Steps)
			}
			if !reflect.DeepEqual(m.roles, whole.roles) || !reflect.DeepEqual(m.config, whole.config) || !reflect.DeepEqual(m.mount, whole.mount) {
				t.Fatalf("%s: Vault has\n%v\nand not\n%v", where, m, whole)
			}
			if !bytes.Equal(m.record, whole.record) {
				t.Fatalf("%s: the record is\n%s\nand not\n%s", where, m.record, whole.record)
			}
		}
	}
}

// What was asked for may be another thing when the next run begins.
func TestNoCutShortRunLosesWhatIsOurs(t *testing.T) {
	want := func(target plan.Target, policies string) plan.Target {
		target.Roles.Roles = make(map[string]desired.Role)
		for i, policy := range policies {
			if policy != '-' {
				name := string(rune('a' + i))
				target.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: role(string(policy))}
			}
		}
		return target
	}
	start, target := kept(t)
	for _, asked := range [][]string{{"xxx-", "yyyy"}, {"x--x", "-yy-"}, {"----", "xyz-"}, {"xb-z", "ab--"}} {
		for first := 0; ; first++ {
			m := start.clone()
			m.crashAt = first
			_, _, endedFirst := m.run(t, want(target, asked[0]))
			for second := 0; ; second++ {
				m := m.clone()
				m.crashAt = second
				_, _, ended := m.run(t, want(target, asked[1]))
				m.crashAt = -1
				if _, err, _ := m.run(t, want(target, "----")); err != nil {
					t.Fatal(err)
				}
				if len(m.roles) != 1 || len(m.plan(t, want(target, "----")).Refused) > 0 {
					t.Fatalf("%q, cut short at %d and %d: %v is left, and noted is %s", asked, first, second, m.roles, m.record)
				}
				if ended {
					break
				}
			}
			if endedFirst {
				break
			}
		}
	}
}
