package agent

import (
	"context"
	"errors"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// tend looks after the token: it adopts one, logs in, or renews. It returns
// when to look again.
func (a *Agent) tend(ctx context.Context) time.Duration {
	if wait := time.Until(a.rested); wait > 0 {
		return wait
	}
	before, lacking := a.session, a.session == nil || a.session.dead || a.relogin
	var granted time.Time
	if before != nil {
		granted = before.Granted
	}
	asked, err := a.keepToken(ctx)
	if ctx.Err() != nil {
		return time.Hour // nobody will look again
	}
	if err != nil {
		p := problemOf(err)
		a.tell("token", p)
		if p.Everywhere {
			return a.giveRest(p.RetryAfter)
		}
		wait := a.tokenBackoff.next(a.started, p.RetryAfter)
		if a.config.Vault.Auth.Method == config.MethodToken {
			wait = min(wait, tokenPoll)
		}
		return wait
	}
	s := a.session
	if a.config.Lends() && (s != before || s.Granted != granted) {
		a.publishAt = time.Now()
	}
	if lacking && s != before {
		a.readFailed()
	}
	a.tokenBackoff.reset()
	if asked {
		a.endRest()
	}
	a.solved("token")
	return a.untilTend()
}

// untilTend is the time until the token is to be looked after.
func (a *Agent) untilTend() time.Duration {
	s := a.session
	wait := max(time.Until(s.due), 0)
	if a.unheard() {
		wait = min(wait, max(time.Until(s.heard.Add(maxRenewInterval)), 0)-jitter(maxRenewInterval/10))
	}
	if s.Foreign {
		wait = min(wait, tokenPoll-jitter(tokenPoll/10))
	}
	return max(wait, 0)
}

// keepToken does what the token needs now, and reports whether it asked Vault
// for anything.
func (a *Agent) keepToken(ctx context.Context) (asked bool, err error) {
	adopted, err := a.adopt()
	if err != nil {
		return false, err
	}
	s := a.session
	relogin := a.relogin && !(s != nil && s.Foreign)
	a.relogin = false
	if s == nil || s.dead || relogin || a.replacedByOthers(s) {
		return true, a.replace(ctx, relogin)
	}
	early := time.Now().Before(s.due)
	if (adopted || early) && a.unheard() && time.Since(s.heard) >= maxRenewInterval*8/10 {
		asked = true
		if err := a.lookUp(ctx, s); err != nil {
			return asked, err
		}
		if s.dead {
			return asked, a.replace(ctx, false)
		}
	}
	switch {
	case adopted && (!s.Renewable || s.TTL == 0), early && !adopted:
		return asked, nil // the first use of an adopted one tells whether it is still good
	case s.Foreign && (!s.Renewable || time.Until(s.Expires) <= s.lead()):
		return true, a.awaitToken(ctx, s)
	case !s.Renewable, time.Until(s.Expires) <= s.lead():
		// One whose renewals keep failing is replaced before it ends.
		return true, a.replace(ctx, false)
	}
	err = a.renew(ctx, s)
	var p *Problem
	if !errors.As(err, &p) || !p.NeedsLogin {
		return true, err
	}
	s.dead = p.InvalidToken
	return true, a.replace(ctx, false)
}

// adopt takes the token of an earlier run into use, if there is one.
func (a *Agent) adopt() (bool, error) {
	s := a.candidate
	if s == nil {
		return false, nil
	}
	if err := a.connect(); err != nil {
		return false, err
	}
	if err := a.equip(s); err != nil {
		return false, err
	}
	s.plan()
	a.session, a.candidate = s, nil
	a.log.Info("took the token of an earlier run into use", "expires", s.Expires.UTC().Truncate(time.Second))
	return true, nil
}

// replace logs in, and puts the token of before aside. Again says that the token
// is good, and that only its policies may be better with the new one.
func (a *Agent) replace(ctx context.Context, again bool) error {
	a.loginTried = time.Now()
	s, err := a.login(ctx)
	if err != nil {
		return err
	}
	if old := a.session; old != nil {
		s.Patience = old.Patience
		if again {
			s.Patience = min(2*old.patience(), longestPatience)
		}
		a.supersede(old)
	}
	s.heard = time.Now()
	s.plan()
	a.session = s
	a.save(s)
	a.log.Info("logged in to Vault", "address", a.config.Vault.Address, "mount", a.config.Vault.Auth.Mount, "role", a.config.Vault.Auth.Role,
		"ttl", s.TTL.String(), "renewable", s.Renewable, "batch", s.Batch)
	return nil
}
