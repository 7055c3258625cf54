package authconfig

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Plan prints what there is to do, and reports whether there is anything: a
// difference, something refused, or a role that is not understood. It changes
// nothing.
func Plan(ctx context.Context, o Options, out io.Writer) (differs bool, err error) {
	p, err := o.open(newMetrics(), false)
	if err != nil {
		return false, err
	}
	defer p.close(ctx)
	look, err := p.keeper.Look(ctx)
	if err != nil {
		return false, err
	}
	if err := look.Plan.Print(out); err != nil {
		return false, fmt.Errorf("writing the plan: %w", err)
	}
	for _, note := range look.Notes {
		if _, err := fmt.Fprintln(out, "note:", note); err != nil {
			return false, fmt.Errorf("writing the plan: %w", err)
		}
	}
	if look.RolesErr != nil {
		return false, fmt.Errorf("leaving all roles as they are: %w", look.RolesErr)
	}
	return look.differs(), nil
}

// differs reports whether there is anything to do, or anything that cannot be done.
func (l *Look) differs() bool { return !l.Plan.Empty() || len(l.Plan.Problems) > 0 }

// Apply does once what there is to do, and prints it. That something is refused,
// or not understood, is an error. It holds the Lease meanwhile, so that no other
// process writes; one that runs is an error.
func Apply(ctx context.Context, o Options, out io.Writer) error {
	p, err := o.open(newMetrics(), false)
	if err != nil {
		return err
	}
	if err := free(ctx, p.kube, o.Namespace); err != nil {
		return err
	}
	var round *Round
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waiting := time.AfterFunc(leaseDuration+renewDeadline, func() {
		cancel(fmt.Errorf("another process got Lease %s/%s meanwhile (its log and Events say what it does)", o.Namespace, LeaseName))
	})
	err = lead(ctx, p.kube, o.Namespace, o.Log, func(ctx context.Context) {
		waiting.Stop()
		defer p.close(ctx)
		round = p.keeper.Round(ctx)
	})
	if err != nil {
		return err
	}
	if round == nil {
		return context.Cause(ctx)
	}
	if round.Look != nil {
		if err := round.print(out); err != nil {
			return err
		}
	}
	return round.outcome()
}

// outcome is nil where all that is wanted is so now.
func (r *Round) outcome() error {
	if r.Err != nil || r.Complete() {
		return r.Err
	}
	return fmt.Errorf("%d of what is wanted could not be done", len(r.Plan.Refused)+len(r.Plan.Problems))
}

// print says what became of a round, for a person.
func (r *Round) print(out io.Writer) (err error) {
	say := func(format string, args ...any) {
		if _, failed := fmt.Fprintf(out, format+"\n", args...); failed != nil && err == nil {
			err = fmt.Errorf("writing what was done: %w", failed)
		}
	}
	for _, done := range r.Results {
		if done.Err == nil {
			say("done: %s", done.Step.String())
		}
	}
	if r.Err == nil && len(r.Results) == 0 {
		say("nothing to change")
	}
	for _, p := range r.Plan.Problems {
		say("left as it is: %s", p)
	}
	for _, f := range r.Plan.Refused {
		say("refused: %s %s: %s", f.Kind, f.Name, f.Text)
	}
	for _, note := range r.Notes {
		say("note: %s", note)
	}
	if end := r.Record.Reviewer.Expires; !end.IsZero() {
		say("note: the reviewer token in Vault ends at %s, and logins with it: authconfig serve replaces it in time, as apply does when it runs before", end.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	return err
}
