// Package apply carries out a plan, and keeps the record of what is ours: an
// intent is noted before a thing is made or changed, the fact afterwards. A run
// that ends anywhere in between loses nothing: the next one sees by the hash
// which of the two there is.
package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// Vault is what is asked of Vault; package vault has it.
type Vault interface {
	Enable(ctx context.Context, typ string, tune plan.Tune) (accessor string, err error)
	Tune(ctx context.Context, tune plan.Tune) error
	WriteRole(ctx context.Context, name string, before, after desired.Fields) error
	DeleteRole(ctx context.Context, name string) error
}

// Records stores the record.
type Records interface {
	SaveRecord(ctx context.Context, r plan.Record) error
}

// Objects makes, changes and deletes what is in the cluster.
type Objects interface {
	ApplyObject(ctx context.Context, s plan.Step) error
}

// Config writes the mount's config with the credential that belongs into it,
// proves it, and notes it in r. before is nil where there was none.
type Config interface {
	Write(ctx context.Context, before, after desired.Fields, r *plan.Record) error
}

// Deps are what a plan is carried out with.
type Deps struct {
	Vault   Vault
	Records Records
	Config  Config
	Objects Objects // may be nil where no step is about the cluster
	// Stored is the record as it is stored now.
	Stored plan.Record
}

// Result is a step that was tried.
type Result struct {
	Step plan.Step
	Err  error
}

// saveTime bounds the last save of a record, which is tried even where ctx is
// over: what it notes has happened.
const saveTime = 10 * time.Second

// patience is how many steps in a row may fail because Vault is not there. Each
// further one could take as long as a call may, and there can be thousands.
const patience = 3

// mostTold is how many failed steps the error of a run tells of: what fails for
// each of thousands of roles is told by the first.
const mostTold = 20

// Run carries out p, and returns every step that it tried, in order, the record
// as it is stored afterwards, and the errors, each of which names its step. A
// step that fails stops only what needs it; but no role of a ConfigMap is deleted
// where another of it could not be made or changed, for it may be the same one
// under a new name. What one ConfigMap asks for in vain keeps no other from taking
// roles back. Run ends between two steps when ctx is over.
func Run(ctx context.Context, p plan.Plan, d Deps) ([]Result, plan.Record, error) {
	r := &run{plan: p, deps: d, record: p.Record, stored: d.Stored, failing: make(map[string]bool)}
	r.note()
	if err := r.save(ctx); err != nil {
		return nil, r.stored, fmt.Errorf("noting what is about to be done: %w", err)
	}
	for _, s := range p.Steps {
		if err := ctx.Err(); err != nil {
			r.errs = append(r.errs, fmt.Errorf("stopping before %s: %w", s.Doing(), err))
			break
		}
		if r.unavailable == patience {
			r.errs = append(r.errs, fmt.Errorf("stopping before %s, since Vault is not available", s.Doing()))
			break
		}
		// What has begun comes to its end: half a step is what nobody wants.
		r.step(context.WithoutCancel(ctx), s)
	}
	if more := r.failures - mostTold; more > 0 {
		r.errs = append(r.errs, fmt.Errorf("and %d more steps failed", more))
	}
	switch r.withheld {
	case 0:
	case 1:
		r.errs = append(r.errs, errors.New("withholding the deletion of 1 role until all roles of its ConfigMap are written"))
	default:
		r.errs = append(r.errs, fmt.Errorf("withholding the deletion of %d roles until all roles of their ConfigMaps are written", r.withheld))
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	if err := r.save(last); err != nil {
		r.errs = append(r.errs, fmt.Errorf("noting what was done: %w", err))
	}
	return r.results, r.stored, errors.Join(r.errs...)
}

type run struct {
	plan   plan.Plan
	deps   Deps
	record plan.Record
	stored plan.Record

	results  []Result
	errs     []error
	noMount  bool            // it could not be made
	noProbe  bool            // a role of authconfig's own could not be made
	failing  map[string]bool // sources of which a role could not be made or changed
	withheld int             // deletions

	failures    int // steps that failed
	unavailable int // steps in a row that failed because Vault was
}

// note puts the intents of all steps into the record.
func (r *run) note() {
	r.record = r.record.Clone()
	for _, s := range r.plan.Steps {
		if s.Kind != plan.KindRole {
			continue
		}
		noted := r.record.Roles[s.Name]
		switch s.Verb {
		case plan.Create:
			noted = plan.RecordedRole{Source: s.Source, Hash: plan.Hash(s.After), Creating: true}
		case plan.Change:
			noted.Source, noted.Next = s.Source, plan.Hash(s.After)
		default:
			continue
		}
		r.record.Roles[s.Name] = noted
	}
}

// save stores the record if it is not what is stored.
func (r *run) save(ctx context.Context) error {
	if r.record.Equal(&r.stored) {
		return nil
	}
	if err := r.deps.Records.SaveRecord(ctx, r.record); err != nil {
		return fmt.Errorf("saving authconfig's record: %w", err)
	}
	r.stored = r.record.Clone()
	return nil
}

// step tries s unless something that it needs has failed.
func (r *run) step(ctx context.Context, s plan.Step) {
	var err error
	switch s.Kind {
	case plan.KindMount, plan.KindTune, plan.KindConfig, plan.KindRole:
		if r.noMount {
			return
		}
		if s.Kind == plan.KindConfig && r.noProbe {
			r.errs = append(r.errs, fmt.Errorf("withholding config %s: a login with a role that could not be made is to prove it", s.Name))
			return
		}
		if s.Kind == plan.KindRole && s.Verb == plan.Delete && r.failing[s.Source] {
			r.withheld++
			return
		}
		err = r.inVault(ctx, s)
	default:
		err = r.deps.Objects.ApplyObject(ctx, s)
	}
	var from interface{ Unavailable() bool }
	if errors.As(err, &from) && from.Unavailable() {
		r.unavailable++
	} else {
		r.unavailable = 0
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.Doing(), err)
		if r.failures++; r.failures <= mostTold {
			r.errs = append(r.errs, err)
		}
		r.failed(s)
	}
	r.results = append(r.results, Result{s, err})
}

func (r *run) failed(s plan.Step) {
	switch {
	case s.Kind == plan.KindMount:
		r.noMount = true
	case s.Kind == plan.KindRole && s.Verb != plan.Delete:
		r.failing[s.Source] = true
		r.noProbe = r.noProbe || s.Own() && s.Verb == plan.Create
	}
}

func (r *run) inVault(ctx context.Context, s plan.Step) error {
	switch s.Kind {
	case plan.KindMount:
		return r.mount(ctx, s)
	case plan.KindTune:
		if err := r.deps.Vault.Tune(ctx, r.plan.Tune); err != nil {
			return err
		}
		r.record.Tune = plan.Hash(s.After)
		return nil
	case plan.KindConfig:
		if err := r.deps.Config.Write(ctx, s.Before, s.After, &r.record); err != nil {
			return err
		}
		r.record.Config = plan.Hash(s.After)
		// Which Secret the credential in Vault is bound to is not to be lost: the next
		// one would be bound to the same, made anew, and that ends this one.
		return r.save(ctx)
	default:
		return r.role(ctx, s)
	}
}

func (r *run) mount(ctx context.Context, s plan.Step) error {
	if s.Verb == plan.Adopt {
		return nil // the record has it
	}
	accessor, err := r.deps.Vault.Enable(ctx, r.plan.Type, r.plan.Tune)
	if err != nil {
		return err
	}
	r.record.Made(accessor)
	r.record.Tune = plan.Hash(r.plan.Tune.Fields())
	// A mount that has a config is ours by its accessor alone.
	return r.save(ctx)
}

func (r *run) role(ctx context.Context, s plan.Step) error {
	switch s.Verb {
	case plan.Adopt:
		return nil // the record has it
	case plan.Delete:
		if err := r.deps.Vault.DeleteRole(ctx, s.Name); err != nil {
			return err
		}
		delete(r.record.Roles, s.Name)
		return nil
	}
	if err := r.deps.Vault.WriteRole(ctx, s.Name, s.Before, s.After); err != nil {
		return err // the intent stays: it may have been written all the same
	}
	r.record.Roles[s.Name] = plan.RecordedRole{Source: s.Source, Hash: plan.Hash(s.After)}
	return nil
}
