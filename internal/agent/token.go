package agent

import (
	"context"
	"errors"
	"time"
)

// tend looks after the token: it adopts one, logs in, or renews. It returns
// when to look again.
func (a *Agent) tend(ctx context.Context) time.Duration {
	if wait := time.Until(a.rested); wait > 0 {
		return wait
	}
	before, lacking := a.session, a.session == nil || a.session.dead || a.relogin
	err := a.keepToken(ctx)
	if ctx.Err() != nil {
		return time.Hour // nobody will look again
	}
	if err == nil {
		if a.config.Lends() {
			a.publishAt = time.Now()
		}
		if lacking && a.session != before {
			a.readFailed()
		}
		a.tokenBackoff.reset()
		a.endRest()
		a.solved("token")
		at, _ := a.session.next()
		wait := max(time.Until(at), 0)
		if a.unheard() {
			wait = min(wait, maxRenewInterval-jitter(maxRenewInterval/10))
		}
		return wait
	}
	p := problemOf(err)
	a.tell("token", p)
	if p.Everywhere {
		return a.giveRest(p.RetryAfter)
	}
	return a.tokenBackoff.next(a.started, p.RetryAfter)
}

func (a *Agent) keepToken(ctx context.Context) error {
	if s := a.candidate; s != nil {
		if err := a.connect(); err != nil {
			return err
		}
		if err := a.equip(s); err != nil {
			return err
		}
		a.session, a.candidate = s, nil
		a.log.Info("took the token of an earlier run into use", "expires", s.Expires.UTC().Truncate(time.Second))
		if !s.Renewable && !a.unheard() {
			return nil // its first use tells whether it is still good
		}
	}
	relogin := a.relogin
	a.relogin = false
	if s := a.session; s != nil && !s.dead && !relogin && a.unheard() {
		if at, _ := s.next(); time.Now().Before(at) {
			if err := a.lookUp(ctx, s); err != nil || !s.dead {
				return err
			}
		}
	}
	if s := a.session; s != nil && !s.dead && !relogin {
		// A token whose renewals keep failing is replaced before it ends.
		if _, login := s.next(); !login && time.Until(s.Expires) > s.lead() {
			err := a.renew(ctx, s)
			var p *Problem
			if !errors.As(err, &p) || !p.NeedsLogin {
				return err
			}
			s.dead = p.InvalidToken
		}
	}
	a.loginTried = time.Now()
	s, err := a.login(ctx)
	if err != nil {
		return err
	}
	if old := a.session; old != nil {
		s.Patience = old.Patience
		if relogin {
			s.Patience = min(2*old.patience(), longestPatience)
		}
		if !old.dead {
			a.retire() // one at a time: logins must not pile up tokens
			if !a.lent() {
				a.retired = old
			}
		}
	}
	a.session = s
	a.save(s)
	a.log.Info("logged in to Vault", "address", a.config.Vault.Address, "mount", a.config.Vault.Auth.Mount, "role", a.config.Vault.Auth.Role,
		"ttl", s.TTL.String(), "renewable", s.Renewable, "batch", s.Batch)
	return nil
}
