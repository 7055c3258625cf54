package apply_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// A memory is a Vault and a cluster. Each effect on them is counted, and the
// program can be made to end just before or just after any.
type memory struct {
	cluster string
	mount   *plan.Mount
	config  desired.Fields
	roles   map[string]desired.Fields
	record  []byte

	effects []string
	crashAt int              // 2n is before effect n, 2n+1 after it; -1 is never
	refuse  map[string]error // by effect
	mounts  int
	secret  string // of the credential that Write makes
}

// crash is what the program ends with.
type crash struct{}

func (m *memory) effect(name string, do func()) error {
	n := len(m.effects)
	if m.crashAt == 2*n {
		panic(crash{})
	}
	m.effects = append(m.effects, name)
	if err := m.refuse[name]; err != nil {
		return err
	}
	do()
	if m.crashAt == 2*n+1 {
		panic(crash{})
	}
	return nil
}

func (m *memory) Enable(_ context.Context, typ string, tune plan.Tune) (string, error) {
	if m.mount != nil {
		return "", fmt.Errorf("path is already in use")
	}
	err := m.effect("enable", func() {
		m.mounts++
		m.mount = &plan.Mount{Type: typ, Accessor: fmt.Sprintf("auth_%s_%d", typ, m.mounts), Tune: tune}
		m.roles = make(map[string]desired.Fields)
	})
	if err != nil {
		return "", err
	}
	return m.mount.Accessor, nil
}

func (m *memory) Tune(_ context.Context, tune plan.Tune) error {
	return m.effect("tune", func() { m.mount.Tune = tune })
}

func (m *memory) WriteRole(_ context.Context, name string, before, after desired.Fields) error {
	if m.mount == nil || (before == nil) != (m.roles[name] == nil) {
		return fmt.Errorf("role %s is not as it was planned", name)
	}
	return m.effect("write "+name, func() { m.roles[name] = after })
}

func (m *memory) DeleteRole(_ context.Context, name string) error {
	return m.effect("delete "+name, func() { delete(m.roles, name) })
}

func (m *memory) SaveRecord(ctx context.Context, r plan.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return m.effect("save", func() { m.record = text })
}

func (m *memory) Write(_ context.Context, before, after desired.Fields, r *plan.Record) error {
	err := m.effect("config", func() { m.config = after })
	if err == nil {
		r.Reviewer.Secret = m.secret
	}
	return err
}

func (m *memory) ApplyObject(_ context.Context, s plan.Step) error {
	return m.effect("object "+s.Name, func() {})
}

func (m *memory) stored(t *testing.T) (r plan.Record) {
	t.Helper()
	if m.record == nil {
		return r
	}
	if err := json.Unmarshal(m.record, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *memory) plan(t *testing.T, target plan.Target) plan.Plan {
	t.Helper()
	return plan.Compute(target, plan.Observed{Cluster: m.cluster, Mount: m.mount, Config: m.config, Roles: maps.Clone(m.roles)}, m.stored(t))
}

func (m *memory) deps(t *testing.T) apply.Deps {
	t.Helper()
	return apply.Deps{Vault: m, Records: m, Config: m, Objects: m, Stored: m.stored(t)}
}

// run plans and applies, and reports whether it was let to end.
func (m *memory) run(t *testing.T, target plan.Target) (results []apply.Result, err error, ended bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
		}
	}()
	results, _, err = apply.Run(t.Context(), m.plan(t, target), m.deps(t))
	return results, err, true
}

func (m *memory) clone() *memory {
	c := *m
	if m.mount != nil {
		mount := *m.mount
		c.mount = &mount
	}
	c.roles, c.effects, c.crashAt = maps.Clone(m.roles), nil, -1
	return &c
}
