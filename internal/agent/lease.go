package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// The words of Vault's expiration manager (vault/expiration.go).
var (
	leaseGone  = []string{"lease not found", "lease expired", "invalid lease"}
	leaseFinal = []string{"lease is not renewable"}
)

// good reports whether what is kept can be used: until its end, and what has a
// lease no longer than the token that took it.
func (r *round) good(was *answer) bool {
	now := time.Now()
	if !was.End.IsZero() && !now.Before(was.End) {
		return false
	}
	end, known := r.ends[was.Token]
	return was.LeaseID == "" || known && now.Before(end)
}

// answer returns what is kept for as long as it is good. It renews its lease,
// replaces it near its end or when its token was replaced, and asks Vault where
// nothing is kept. What could not be renewed or replaced stays, as trouble.
func (r *round) answer(w want) result {
	a := r.agent
	was := a.kept(w.key)
	if was == nil || !r.good(was) {
		return r.take(w, was != nil)
	}
	now := time.Now()
	stale := was.LeaseID != "" && was.Token != r.session.id()
	renew := was.renewable() && (!now.Before(was.Renew) || !a.answers.isFresh(w.key))
	var trouble error
	if renew && !stale {
		var gone bool
		switch gone, trouble = r.renew(w, was); {
		case gone:
			return r.take(w, true)
		case trouble != nil && problemOf(trouble).InvalidToken:
			return result{err: trouble} // its leases are dead with it
		}
	}
	if stale || !was.Again.IsZero() && !now.Before(was.Again) {
		taken := r.take(w, true)
		if taken.err == nil {
			return taken
		}
		if a.once() {
			// It has no last good files to go on with: what is near its end is
			// better than nothing.
			if p := problemOf(taken.err); p.Act || was.End.IsZero() {
				return taken
			}
			a.log.Warn("publishing what an earlier run was given, since there is no other now", "until", was.End.UTC().Truncate(time.Second), "reason", taken.err)
			return was.result(nil)
		}
		if problemOf(taken.err).InvalidToken && !stale {
			return taken
		}
		trouble = taken.err
		if renew && stale {
			if gone, _ := r.renew(w, was); gone {
				return taken
			}
		}
	}
	return was.result(trouble)
}

// renew asks for more time for a lease, in the secrets' namespace. Gone means
// that there is no such lease any more. An error is expected to pass.
func (r *round) renew(w want, was *answer) (gone bool, err error) {
	doing := fmt.Sprintf("renewing the lease of %q", w.at.path)
	if p := r.isDown(); p != nil {
		return false, p
	}
	e, asked := &exchange{}, time.Now()
	s, err := r.session.secrets.Logical().WriteWithContext(watch(r.ctx, e), "sys/leases/renew", map[string]any{"lease_id": was.LeaseID, "increment": 0})
	if err != nil {
		p := r.failed(doing, err, e)
		switch {
		case saidAny(p, leaseGone):
			return true, nil
		case p.Denied, saidAny(p, leaseFinal):
			// Without the default policy, or not renewable after all: it lives
			// for as long as it was granted.
			r.agent.log.Debug("lease cannot be renewed", "path", w.at.path, "reason", p.Text)
			was.Last = true
			was.granted(asked, was.End.Sub(asked), r.final)
			r.keep(w, was)
			return false, nil
		}
		p.Act = false // the engine's own trouble comes as a 400 too
		return false, p
	}
	if s == nil || s.LeaseID == "" || s.WrapInfo != nil {
		return false, &Problem{Text: fmt.Sprintf("%s: answered %d without what was granted", doing, e.status)}
	}
	ttl := grant(&api.SecretAuth{LeaseDuration: s.LeaseDuration})
	was.Last = !s.Renewable
	was.granted(asked, ttl, r.final)
	r.keep(w, was)
	r.agent.log.Debug("renewed lease", "path", w.at.path, "ttl", ttl.String(), "last", was.Last)
	return false, nil
}

// hold renews the leases that an entry's published files hang on, where it could
// not be rendered and failed before it got to them: those files stay.
func (r *round) hold(out *rendered) {
	keys := out.entry.reads
	if keys == nil { // the files are an earlier run's
		keys, _ = r.agent.volume.Private(keptAnswer)
	}
	for _, key := range keys {
		was := r.agent.kept(key)
		if r.calls[key] != nil || was == nil || !was.renewable() || !r.good(was) {
			continue
		}
		if !time.Now().Before(was.Renew) || !r.agent.answers.isFresh(key) {
			w := want{key: key}
			w.at.path = out.file.Path
			if gone, err := r.renew(w, was); gone {
				continue
			} else if err != nil {
				r.agent.log.Debug("a lease of a file that could not be made anew is not renewed", "path", out.file.Path, "reason", err)
			}
		}
		out.again = earlier(out.again, was.next())
		out.takers = append(out.takers, was.Token)
	}
}

// refuse remembers that an answer came with a lease, which would end with a token
// of few uses, and revokes it: nobody will use it.
func (r *round) refuse(w want, lease string) *Problem {
	problem := &Problem{Act: true, Text: fmt.Sprintf("asking for %q: the answer has a lease, which ends with the token, and the role's tokens have %d uses (set the role's token_num_uses to 0)",
		w.at.path, r.session.Uses)}
	r.agent.refused.add(w.key, problem)
	e := &exchange{}
	if _, err := r.session.secrets.Logical().WriteWithContext(watch(r.ctx, e), "sys/leases/revoke", map[string]any{"lease_id": lease}); err != nil {
		// Vault's default policy does not allow it.
		r.agent.log.Debug("the lease runs out by itself, or with the token", "reason", classify("revoking a lease", err, e))
	}
	return problem
}

func saidAny(p *Problem, texts []string) bool {
	for _, text := range texts {
		if strings.Contains(p.said, text) {
			return true
		}
	}
	return false
}

// keep keeps an answer; that it cannot be kept for a restart is told.
func (r *round) keep(w want, now *answer) {
	if err := r.agent.keep(w.key, now); err != nil {
		r.agent.log.Warn("keeping an answer for a restart", "path", w.at.path, "reason", err)
	}
}

// result is what a kept answer gives to who asked.
func (w *answer) result(trouble error) result {
	res := result{secret: w.secret(), again: w.next(), heard: w.renewable(), trouble: trouble}
	if w.LeaseID != "" {
		res.taker = w.Token
	}
	return res
}
