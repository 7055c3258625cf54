package agent

import (
	"context"
	"errors"
	"fmt"
)

// retire revokes the token that was replaced. Where Vault is in trouble it is
// tried again after the next round; what may not be revoked runs out by itself.
func (a *Agent) retire() {
	if a.retired == nil {
		return
	}
	if err := a.retired.revoke(context.Background()); err != nil {
		a.log.Debug("the old token is not revoked", "reason", err)
		if !problemOf(err).Act && !a.retired.over() {
			return
		}
	}
	a.retired = nil
}

// end is what SIGTERM leads to. Apps may still run, or start again: before the
// token is revoked, the note that it was is written, and the gate is closed, so
// that no app starts on what may be dead.
func (a *Agent) end() {
	if a.session == nil || a.session.Batch {
		a.log.Info("ended")
		return
	}
	var err error
	if a.started {
		err = a.volume.WritePrivate(keptRevoked, nil)
		if err == nil {
			err = a.volume.CloseGate()
		}
	}
	if err == nil {
		a.setReason("the agent was told to end and has revoked its token")
		err = a.volume.RemovePrivate(keptToken)
	}
	if err == nil {
		// One bound for all, whatever their number.
		ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
		defer cancel()
		if a.retired != nil {
			err = a.retired.revoke(ctx)
		}
		err = errors.Join(err, a.session.revoke(ctx))
	}
	if err != nil {
		a.log.Warn("ended without revoking the token, which runs out by itself", "reason", err)
		return
	}
	a.log.Info("ended, token revoked")
}

// giveUp ends a start that took too long. The token stays for the next start,
// unless a lease hangs on it that nobody will ever use.
func (a *Agent) giveUp() error {
	a.leases.mu.Lock()
	leased := len(a.leases.seen) > 0
	a.leases.mu.Unlock()
	a.retire()
	if leased && a.session != nil {
		err := a.volume.RemovePrivate(keptToken)
		if err = errors.Join(err, a.session.revoke(context.Background())); err != nil {
			a.log.Warn("giving up without revoking the token, which runs out by itself", "reason", err)
		}
	}
	reason := a.reason
	if reason == "" {
		reason = "Vault has not answered yet"
	}
	return fmt.Errorf("no files after %s: %s", a.config.StartTimeout, reason)
}
