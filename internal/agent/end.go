package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// lent reports whether apps may be using the token itself.
func (a *Agent) lent() bool { return a.config.Lends() && a.started }

// bears reports whether a denial is borne without another login: one that would
// leave a good token behind, or came too early.
func (a *Agent) bears(s *session) bool {
	return a.lent() || a.unrevocable || s != a.session || time.Since(s.LoggedIn) <= s.patience() || time.Since(a.loginTried) <= s.patience()
}

// revokes reports whether the token is revoked when the agent ends.
func (a *Agent) revokes() bool {
	said := a.config.RevokeOnExit
	switch {
	case said != nil && !*said:
		return false
	case a.once() && a.open:
		// What is published goes on without the agent: what hangs on the token
		// as well.
		return a.config.TokenFile == nil && !a.leases("") && !a.refused.any()
	}
	return said != nil || !a.config.Lends()
}

// finish ends an agent that publishes once and has.
func (a *Agent) finish() error {
	if !a.revokes() {
		if said := a.config.RevokeOnExit; said != nil && *said {
			a.log.Warn("done; the token is not revoked, since what is published needs it (latchkey.dev/revoke-on-exit has no effect here)")
			return nil
		}
		a.log.Info("done, token kept")
		return nil
	}
	if err := a.revoke(); err != nil {
		a.log.Warn("done without revoking the token, which runs out by itself", "reason", err)
		return nil
	}
	a.log.Info("done, token revoked")
	return nil
}

// end is what SIGTERM leads to. Apps may still run, or start again: before the
// token is revoked, the note that it was is written, and the gate is closed, so
// that no app starts on what may be dead. With lifecycle sidecar the gate stays
// open: such apps are held back by nothing, and wait for their files themselves.
//
// An agent that publishes once has not done so when it comes to this, which is
// an error: the kubelet takes an init container that ends without one for done.
func (a *Agent) end() error {
	var ended error
	if a.once() {
		ended = errors.New("told to end before the files were published")
	}
	if s := a.candidate; a.session == nil && s != nil && a.connect() == nil && a.equip(s) == nil {
		a.session = s // an earlier run's, which this one did not get to
	}
	if a.session == nil || !a.session.revocable() || !a.revokes() {
		a.log.Info("ended")
		return ended
	}
	var err error
	if a.started {
		err = a.volume.WritePrivate(keptRevoked, nil)
		if err == nil && a.config.Lifecycle != config.Sidecar {
			err = a.volume.CloseGate()
		}
	}
	if err == nil {
		a.setReason("the agent was told to end and has revoked its token")
		err = a.revoke()
	}
	if err != nil {
		a.log.Warn("ended without revoking the token, which runs out by itself", "reason", err)
		return ended
	}
	a.log.Info("ended, token revoked")
	return ended
}

// revoke revokes the token, and those before it, within one bound for all.
// It is forgotten only then: what was not revoked the next run uses, and one that
// was revoked without this run's knowing tells so at its first use.
func (a *Agent) revoke() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
	defer cancel()
	for _, old := range a.retired {
		if !old.spared {
			err = errors.Join(err, old.revoke(ctx))
		}
	}
	if err = errors.Join(err, a.session.revoke(ctx)); err != nil {
		return err
	}
	return a.volume.RemovePrivate(keptToken)
}

// leave revokes the token of a start that came to nothing, where something hangs
// on it that nobody will ever use, such as a token that a write made. Otherwise
// the next start uses it, and the leases that were taken under it.
func (a *Agent) leave() {
	if a.session == nil || !a.refused.any() {
		return
	}
	if err := a.revoke(); err != nil {
		a.log.Warn("giving up without revoking the token, which runs out by itself", "reason", err)
	}
}

// giveUp ends a start that took too long.
func (a *Agent) giveUp() error {
	a.leave()
	reason := a.reason
	if reason == "" {
		reason = "Vault has not answered yet"
	}
	return fmt.Errorf("no files after %s: %s", a.config.StartTimeout, reason)
}
