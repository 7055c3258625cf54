package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// retireGrace is the default of config.Agent.RetireGrace.
const retireGrace = 5 * time.Minute

// retiree is a token that was replaced and is good still. It is not renewed.
type retiree struct {
	*session
	// leased means that apps use, or have used, what has a lease of it.
	leased bool
	// spared means that it is not revoked: it may be in use elsewhere.
	spared bool
	// at is when to revoke it; zero is not decided yet.
	at      time.Time
	backoff backoff
}

// id names a token without telling it.
func (s *session) id() string {
	sum := sha256.Sum256([]byte(s.token.Reveal()))
	return hex.EncodeToString(sum[:16])
}

// supersede makes place for a new token. What has a lease of the old one is read
// anew under the new one.
func (a *Agent) supersede(old *session) {
	for _, r := range a.retired {
		if !r.leased && !r.spared {
			r.at = time.Now() // logins must not pile up tokens
		}
	}
	a.retireDue()
	if !old.dead {
		a.retired = append(a.retired, &retiree{session: old, leased: a.leases(old.id()), spared: a.lent() || !old.revocable()})
	}
	for _, e := range a.entries {
		if len(e.takers) > 0 {
			e.due, a.pause = time.Time{}, time.Time{}
		}
	}
}

// leases reports whether what an entry was last rendered of has a lease of the
// token of that name; of any token where it is empty. What an earlier run has
// published may have one until it is rendered anew.
func (a *Agent) leases(token string) bool {
	return slices.ContainsFunc(a.entries, func(e *entry) bool {
		if e.reads == nil {
			return a.published(e)
		}
		return token == "" && len(e.takers) > 0 || slices.Contains(e.takers, token)
	})
}

// settle decides what becomes of the replaced tokens. One whose leases have all
// been replaced is revoked, after a grace, once everyone has been told of the
// files that replaced them; one without leases as soon as a round under the new
// token was good.
func (a *Agent) settle(good bool) {
	grace := cmp.Or(time.Duration(a.config.RetireGrace), retireGrace)
	a.forgetRetired(func(r *retiree) bool {
		switch {
		case r.over():
			return true
		case a.leases(r.id()):
			r.leased, r.at = true, time.Time{}
		case r.spared:
			return true
		case !r.at.IsZero():
		case r.leased && a.everyoneKnows():
			r.at = time.Now().Add(grace)
		case !r.leased && good:
			r.at = time.Now()
		}
		return false
	})
}

// forgetRetired is slices.DeleteFunc, for which the linker would keep all methods
// of the client that a session holds: half a megabyte.
func (a *Agent) forgetRetired(gone func(*retiree) bool) {
	var kept []*retiree
	for _, r := range a.retired {
		if !gone(r) {
			kept = append(kept, r)
		}
	}
	a.retired = kept
}

// nextRetirement is when a token is to be revoked.
func (a *Agent) nextRetirement() time.Time {
	at := time.Now().Add(never)
	for _, r := range a.retired {
		if !r.at.IsZero() && r.at.Before(at) {
			at = r.at
		}
	}
	return at
}

// retireDue revokes the tokens whose time has come. Where Vault is in trouble it
// is tried again; what may not be revoked runs out by itself.
func (a *Agent) retireDue() {
	now := time.Now()
	a.forgetRetired(func(r *retiree) bool {
		if r.over() {
			return true
		}
		if r.at.IsZero() || now.Before(r.at) {
			return false
		}
		err := r.revoke(context.Background())
		if err == nil {
			return true
		}
		a.log.Debug("the old token is not revoked", "reason", err)
		p := problemOf(err)
		a.unrevocable = a.unrevocable || p.Denied
		r.at = time.Now().Add(r.backoff.next(true, p.RetryAfter))
		return p.Act
	})
}
