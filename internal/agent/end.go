package agent

import (
	"context"
	"errors"
	"fmt"
)

// retire revokes the tokens that are not in use any more. What cannot be
// revoked now runs out by itself.
func (a *Agent) retire() {
	for _, old := range a.retired {
		if err := old.revoke(context.Background()); err != nil {
			a.log.Debug("the old token runs out by itself", "reason", err)
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
		for _, s := range append([]*session{a.session}, a.retired...) {
			err = errors.Join(err, s.revoke(ctx))
		}
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
