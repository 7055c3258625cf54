package agent

import (
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// never is when something happens that does not.
const never = 10 * 365 * 24 * time.Hour

// entry is one entry of what to publish. It belongs to the goroutine of Run,
// but for file and render, which a round reads.
type entry struct {
	file   config.File
	render *render.Renderer
	// due is when it is to be read; zero is at once.
	due time.Time
	// wanted is when it was to be read and published that has not been since, or
	// is to be next.
	wanted time.Time
	// reads names what it asked Vault for when it was last rendered, nil before
	// this run has, takers the tokens on which leases of that hang.
	reads, takers []string
	// tried names what it asked for since, where it could not be rendered.
	tried []string
	// inputs is what the published files were made of; see render.Result.
	inputs string
	// rested is until when Vault wants it left alone, whatever shares a secret
	// with it.
	rested time.Time
	// heard means that it has Vault asked now and then.
	heard  bool
	absent bool
	failed bool
	denied bool
	// succeeded is when it was last rendered from what Vault said; missing means
	// that its secret does not exist, although it must.
	succeeded time.Time
	missing   bool
	backoff   backoff
}

// interval is how long a read of the entry is trusted.
func (e *entry) interval(a *Agent) time.Duration {
	if e.file.Refresh > 0 {
		return time.Duration(e.file.Refresh)
	}
	return time.Duration(a.config.Refresh)
}

// overdue is since when it was to be read: since now if it was not yet.
func (e *entry) overdue() time.Time {
	if now := time.Now(); e.wanted.After(now) {
		return now
	}
	return e.wanted
}

// spread keeps the reads of pods that started together apart.
func spread(every time.Duration) time.Duration { return every - every/10 + jitter(every/5) }

// nextRound is when there is something to read or to publish.
func (a *Agent) nextRound() time.Time {
	at := time.Now().Add(never)
	if !a.publishAt.IsZero() {
		at = a.publishAt
	}
	for _, e := range a.entries {
		due := e.due
		if a.open && due.Before(e.rested) {
			due = e.rested // as for which are due, or a round would find none
		}
		if due.Before(at) {
			at = due
		}
	}
	for _, until := range []time.Time{a.pause, a.rested} {
		if at.Before(until) {
			at = until
		}
	}
	return at
}

// due are the entries to read now: those whose time has come, and whatever
// shares a secret with them, since two files of one secret must not disagree.
// The first set is made of all.
func (a *Agent) due() []*entry {
	if !a.open {
		return a.entries
	}
	now := time.Now()
	var due []*entry
	reads := make(map[string]bool)
	for more := true; more; {
		more = false
		for _, e := range a.entries {
			shares := slices.ContainsFunc(e.reads, func(key string) bool { return reads[key] })
			if slices.Contains(due, e) || e.due.After(now) && !shares || e.rested.After(now) {
				continue
			}
			due, more = append(due, e), true
			for _, key := range e.reads {
				reads[key] = true
			}
		}
	}
	return due
}

// schedule says when the entries of a round that was published are due again.
func (a *Agent) schedule(out []rendered, o outcome) {
	// Entries of one interval stay together.
	at := make(map[time.Duration]time.Duration)
	every := func(e *entry) time.Duration {
		interval := e.interval(a)
		if _, ok := at[interval]; !ok {
			at[interval] = spread(interval)
		}
		return at[interval]
	}
	for _, r := range out {
		e, after := r.entry, every(r.entry)
		wanted := e.overdue()
		e.failed = r.problem() != nil
		if e.tried = r.reads; r.err == nil {
			e.tried = nil
			e.reads, e.takers, e.heard = append([]string{}, r.reads...), r.takers, r.heard
		}
		switch {
		case e.failed && o.down:
			after = 0 // the pause says when
		case e.failed:
			// Leases have an end, so what could not be done for one is not left for
			// long.
			wait, late := time.Until(r.again), !r.again.IsZero() && !r.again.After(time.Now())
			switch p := problemOf(r.problem()); {
			case p.RetryAfter > 0:
				after = e.backoff.next(a.started, p.RetryAfter)
				e.rested = time.Now().Add(after)
			case !p.Act, len(r.takers) > 0 && (r.err == nil || late):
				after = min(e.backoff.next(a.started, 0), after)
			}
			if wait > 0 {
				after = min(after, max(wait, shortestPause))
			}
		default:
			e.backoff.reset()
			if !r.polled && len(r.reads) > 0 {
				after = never
			}
			if !r.again.IsZero() {
				after = min(after, max(time.Until(r.again), shortestPause))
			}
			if slices.ContainsFunc(r.takers, func(token string) bool { return token != a.session.id() }) {
				after = 0 // the token was replaced meanwhile
			}
		}
		e.due = time.Now().Add(after)
		if e.wanted = e.due; e.failed {
			e.wanted = wanted
		}
	}
	a.sweep()
}
