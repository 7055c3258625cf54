package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

var errRefused = errors.New("refused")

// kept is a Vault with a mount that is ours, and its roles a and b.
func kept(t *testing.T) (*memory, plan.Target) {
	t.Helper()
	m := &memory{cluster: "cluster-1", crashAt: -1, secret: "one"}
	target := plan.Target{
		Mount: "kubernetes", Type: "kubernetes", Config: desired.Fields{"kubernetes_host": "https://api"},
		Own: map[string]desired.Role{"probe": {Fields: role("none")}}, Sources: []string{source},
		Roles: desired.Roles{Complete: true, Roles: map[string]desired.Role{
			"a": {Source: source, Key: "a", Fields: role("a")},
			"b": {Source: source, Key: "b", Fields: role("b")},
		}},
	}
	if _, err, _ := m.run(t, target); err != nil {
		t.Fatal(err)
	}
	if want := []string{"save", "enable", "save", "write probe", "config", "save", "write a", "write b", "save"}; !slices.Equal(m.effects, want) {
		t.Fatalf("it did %q and not %q", m.effects, want)
	}
	m.effects, m.refuse = nil, make(map[string]error)
	return m, target
}

func TestFailuresStopOnlyWhatNeedsThem(t *testing.T) {
	type change func(*memory, *plan.Target)
	set := func(name, policy string) change {
		return func(_ *memory, target *plan.Target) {
			target.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: role(policy)}
		}
	}
	drop := func(name string) change {
		return func(_ *memory, target *plan.Target) { delete(target.Roles.Roles, name) }
	}
	tenant := func(_ *memory, target *plan.Target) {
		target.Sources = append(target.Sources, "team/roles")
		target.Roles.Roles["x"] = desired.Role{Source: "team/roles", Key: "x", Fields: role("x")}
	}
	host := func(_ *memory, target *plan.Target) {
		target.Config = desired.Fields{"kubernetes_host": "https://other"}
	}
	tune := func(_ *memory, target *plan.Target) { target.Tune.Description = "other" }
	gone := func(m *memory, _ *plan.Target) { m.mount, m.config, m.roles = nil, nil, nil }
	noProbe := func(m *memory, _ *plan.Target) { delete(m.roles, "probe") }
	otherProbe := func(_ *memory, target *plan.Target) { target.Own["probe"] = desired.Role{Fields: role("other")} }
	for _, test := range []struct {
		name    string
		changes []change
		refuse  string
		effects []string // after the first save
		says    []string
	}{
		{
			"a role that cannot be made withholds deletions, not other roles", []change{set("c", "c"), set("d", "d"), drop("a"), drop("b")}, "write c",
			[]string{"write c", "write d", "save"},
			[]string{"creating role c (from vault-auth/vault-auth-roles): refused", "withholding the deletion of 2 roles"},
		},
		{
			"a role that cannot be changed withholds deletions", []change{set("b", "c"), drop("a")}, "write b",
			[]string{"write b"}, []string{"changing role b", "withholding the deletion of 1 role until"},
		},
		{
			"a role that another ConfigMap asks for in vain withholds none", []change{tenant, drop("a")}, "write x",
			[]string{"write x", "delete a", "save"}, []string{"creating role x (from team/roles): refused"},
		},
		{
			"a role that cannot be deleted stops no other", []change{drop("a"), drop("b")}, "delete a",
			[]string{"delete a", "delete b", "save"}, []string{"deleting role a"},
		},
		{
			"a mount that cannot be made stops everything", []change{gone, set("c", "c")}, "enable",
			[]string{"enable"}, []string{"creating mount kubernetes: refused"},
		},
		{
			"a mount that cannot be tuned stops nothing", []change{tune, host, set("c", "c")}, "tune",
			[]string{"tune", "config", "save", "write c", "save"}, []string{"changing tune kubernetes: refused"},
		},
		{
			"a config that cannot be written stops no role", []change{host, set("c", "c"), drop("a")}, "config",
			[]string{"config", "write c", "delete a", "save"}, []string{"changing config kubernetes: refused"},
		},
		{
			"without the probe's role no config is written", []change{noProbe, host, set("c", "c")}, "write probe",
			[]string{"write probe", "write c", "save"}, []string{"creating role probe: refused", "withholding config kubernetes"},
		},
		{
			"with an older role of the probe the config is written", []change{otherProbe, host}, "write probe",
			[]string{"write probe", "config", "save"}, []string{"changing role probe: refused"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, target := kept(t)
			for _, change := range test.changes {
				change(m, &target)
			}
			m.refuse[test.refuse] = errRefused
			results, err, _ := m.run(t, target)
			if !errors.Is(err, errRefused) {
				t.Errorf("the error is %v", err)
			}
			for _, text := range test.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("the error does not say %q: %v", text, err)
				}
			}
			if len(m.effects) > 0 && m.effects[0] == "save" {
				m.effects = m.effects[1:]
			}
			if !slices.Equal(m.effects, test.effects) {
				t.Errorf("it did %q and not %q", m.effects, test.effects)
			}
			failed := 0
			for _, r := range results {
				if r.Err != nil {
					failed++
				}
			}
			if failed != 1 {
				t.Errorf("%d results are failures: %v", failed, results)
			}

			delete(m.refuse, test.refuse)
			if _, err, _ := m.run(t, target); err != nil {
				t.Error(err)
			}
			if p := m.plan(t, target); len(p.Steps) > 0 {
				t.Errorf("when it is not refused any more, there is still to do: %v", p.Steps)
			}
			for _, r := range m.stored(t).Roles {
				if r.Creating || r.Next != "" {
					t.Errorf("an intent is left: %+v", m.stored(t))
				}
			}
		})
	}
}

func TestNothingIsDoneThatIsNotNotedFirst(t *testing.T) {
	m, target := kept(t)
	target.Roles.Roles["c"] = desired.Role{Source: source, Fields: role("c")}
	m.refuse["save"] = errRefused
	_, err, _ := m.run(t, target)
	if !errors.Is(err, errRefused) || !slices.Equal(m.effects, []string{"save"}) {
		t.Errorf("it did %q (%v)", m.effects, err)
	}
}

// A Vault that once answers as if the mount were not there makes authconfig
// forget nothing: not what is its own, and not what it is still to delete.
func TestAMountThatOnlySeemedToBeGoneIsOurs(t *testing.T) {
	m, target := kept(t)
	delete(target.Roles.Roles, "b")
	wrong := plan.Compute(target, plan.Observed{Cluster: m.cluster}, m.stored(t))
	if _, _, err := apply.Run(t.Context(), wrong, m.deps(t)); err == nil || !strings.Contains(err.Error(), "path is already in use") {
		t.Fatalf("the error is %v", err)
	}
	if p := m.plan(t, target); len(p.Refused) > 0 || len(p.Steps) != 1 || p.Steps[0].String() != "delete role b (from "+source+")" {
		t.Fatalf("afterwards there is to do %v, and refused is %v", p.Steps, p.Refused)
	}
	if _, err, _ := m.run(t, target); err != nil {
		t.Error(err)
	}
	if r := m.stored(t); r.Creating || len(r.Roles) != 2 || r.Roles["a"].Creating || len(m.roles) != 2 {
		t.Errorf("the record is %+v, and the roles %v", r, m.roles)
	}
}

func TestTheCredentialIsNotedAtOnce(t *testing.T) {
	m, target := kept(t)
	target.NewCredential, m.secret = "it is due", "two"
	target.Roles.Roles["c"] = desired.Role{Source: source, Fields: role("c")}
	// Effects: save, config, save, write c.
	m.crashAt = 2 * 3
	if _, _, ended := m.run(t, target); ended {
		t.Fatal("it was not cut short")
	}
	if got := m.stored(t).Reviewer.Secret; got != "two" {
		t.Errorf("the record has the Secret %q", got)
	}
}

func TestItEndsBetweenStepsAndNotesWhatItDid(t *testing.T) {
	m, target := kept(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := plan.Plan{Record: m.stored(t), Steps: []plan.Step{
		{Verb: plan.Create, Kind: plan.KindServiceAccount, Name: "team/app"},
		{Verb: plan.Create, Kind: plan.KindRole, Name: "c", Source: source, After: role("c")},
		{Verb: plan.Create, Kind: plan.KindRole, Name: "d", Source: source, After: role("d")},
	}}
	deps := m.deps(t)
	deps.Vault = cancelling{m, cancel}
	results, record, err := apply.Run(ctx, p, deps)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stopping before creating role d") {
		t.Errorf("the error is %v", err)
	}
	if want := []string{"save", "object team/app", "write c", "save"}; !slices.Equal(m.effects, want) || len(results) != 2 {
		t.Errorf("it did %q and not %q, with %d results", m.effects, want, len(results))
	}
	if stored := m.stored(t); !stored.Equal(&record) || stored.Roles["c"].Creating || !stored.Roles["d"].Creating {
		t.Errorf("the record is %+v", stored)
	}
	if _, err, _ := m.run(t, target); err != nil {
		t.Error(err)
	}
}

type cancelling struct {
	*memory
	cancel func()
}

func (c cancelling) WriteRole(ctx context.Context, name string, before, after desired.Fields) error {
	c.cancel()
	if err := ctx.Err(); err != nil {
		return err // in the middle of the call
	}
	return c.memory.WriteRole(ctx, name, before, after)
}

type gone struct{}

func (gone) Error() string { return "no answer" }

func (gone) Unavailable() bool { return true }

// A Vault that goes away in the middle is not asked for each of thousands of
// roles, since each of these calls may take its time.
func TestVaultGoesAway(t *testing.T) {
	m, target := kept(t)
	for i := range 100 {
		name := fmt.Sprintf("new%02d", i)
		target.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: role("a")}
		// The first is only refused, and the third of those that follow is not.
		if m.refuse["write "+name] = fmt.Errorf("writing it: %w", gone{}); i == 0 {
			m.refuse["write "+name] = errRefused
		}
	}
	delete(m.refuse, "write new03")
	_, err, _ := m.run(t, target)
	if want := []string{"save", "write new00", "write new01", "write new02", "write new03", "write new04", "write new05", "write new06", "save"}; !slices.Equal(m.effects, want) {
		t.Errorf("it did %q", m.effects)
	}
	if text := "stopping before creating role new07 (from vault-auth/vault-auth-roles), since Vault is not available"; err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v", err)
	}
	clear(m.refuse)
	if _, err, _ := m.run(t, target); err != nil {
		t.Error(err)
	}
	if p := m.plan(t, target); len(p.Steps) > 0 {
		t.Errorf("%d steps are left", len(p.Steps))
	}
}

// What is refused for each of many roles does not make a message of as many lines.
func TestManyFailures(t *testing.T) {
	m, target := kept(t)
	for i := range 100 {
		name := fmt.Sprintf("new%02d", i)
		target.Roles.Roles[name] = desired.Role{Source: source, Key: name, Fields: role("a")}
		m.refuse["write "+name] = errRefused
	}
	results, err, _ := m.run(t, target)
	if len(results) != 100 {
		t.Errorf("%d steps were tried", len(results))
	}
	if !errors.Is(err, errRefused) || strings.Count(err.Error(), "\n") > 21 || !strings.Contains(err.Error(), "and 80 more steps failed") {
		t.Errorf("the error is %v", err)
	}
}
