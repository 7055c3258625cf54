// Package agent is what runs beside an app: it logs in to Vault, keeps the
// token alive, reads secrets, and publishes them as files into the volume that
// it shares with the app.
//
// Until the first publication it tries for the configured start timeout; after
// it, nothing in Vault or in the network makes it end, empty a file or give up
// a good credential.
//
// Run, in agent.go, is a loop: it tends the token, runs a round when an entry is
// due, and publishes what the round brought. Where to look:
//
//	the token      token.go (tend), session.go (one token), login.go and a file a method,
//	               uses.go (tokens of few uses), retire.go (replaced ones), end.go
//	a round        entry.go (what is due), secrets.go (one round), mounts.go, write.go,
//	               lease.go, answer.go (what is kept), changes.go (what says when it changes)
//	what it gives  publish.go, inputs.go, lend.go (the token's file), notify.go, signal.go
//	calls to Vault vault.go (one client), transport.go (TLS), problem.go, backoff.go
//	for the pod    serve.go (probes), metrics.go, proxy*.go, quit.go, gate.go, tell.go, words.go
//
// The directory itself is package volume's.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// Agent is one agent. Its fields belong to the goroutine of Run, but for what
// has a lock of its own.
type Agent struct {
	config  *config.Agent
	volume  *volume.Volume
	log     *slog.Logger
	entries []*entry
	// transport carries all calls to Vault; nil until the first one.
	transport http.RoundTripper
	// rest is called after each round.
	rest func()
	// send makes one try of a notification.
	send    func(context.Context, config.Notification) error
	mounts  mounts
	refused refusals
	answers answers
	changes changes
	// unwrapped is what a wrapping token was exchanged for.
	unwrapped  unwrapped
	refusedIDs refusedIDs
	notifier   *notifier
	ops        *ops

	session *session
	// candidate is the token of an earlier run, not yet taken into use.
	candidate *session
	// retired are the tokens that were replaced and are good still.
	retired []*retiree
	// open means that the first set is out: the gate is open, and from now on
	// each entry fails alone.
	open bool
	// started means that apps may be using files, the gate open or not.
	started bool
	// publishAt is when to publish although nothing may be due, since the token
	// has changed; zero is not at all.
	publishAt time.Time
	// wrapping is the published one, where a wrapped token is asked for.
	wrapping wrapping
	// pause is until when Vault is left alone.
	pause time.Time
	// relogin asks for one try of a new login at the next look at the token.
	relogin    bool
	loginTried time.Time
	// unrevocable means that Vault does not let the agent revoke its tokens.
	unrevocable bool
	reason      string // why it is not ready, as last told
	told        map[string]string

	// rested is until when a Vault in trouble is left alone.
	rested      time.Time
	restBackoff backoff

	tokenBackoff, fetchBackoff backoff
	// deadBackoff keeps a Vault that gives tokens and calls them invalid from
	// being asked again and again.
	deadBackoff backoff
	began       time.Time
}

// New makes an agent of a valid configuration. An error means that a template
// is wrong.
func New(c *config.Agent, v *volume.Volume, log *slog.Logger) (*Agent, error) {
	a := &Agent{config: c, volume: v, log: log, rest: debug.FreeOSMemory, send: send, told: make(map[string]string), ops: newOps()}
	var errs []error
	for _, f := range c.Files {
		r, err := render.New(f, render.Options{Show: c.Show})
		errs = append(errs, err)
		a.entries = append(a.entries, &entry{file: f, render: r})
	}
	return a, errors.Join(errs...)
}

// Run works until ctx ends, then revokes its token, if it is to, and returns
// nil. With lifecycle init it returns as soon as the files are published. It
// returns an error, with the reason in one line, if the first set of files is
// not out when the start timeout is over.
func (a *Agent) Run(ctx context.Context) error {
	a.began = time.Now()
	if err := a.prepare(); err != nil {
		return fmt.Errorf("preparing the shared volume: %w", err)
	}
	ctx, stop := a.serve(ctx)
	defer stop()
	a.notifier = newNotifier(ctx, a.config.Notify, a.ops.meter.sends(a.send), a.log)
	if a.open {
		a.announce()
	}

	// Until apps may be running, calls end with the start timeout as well.
	calls := ctx
	if !a.started {
		var cancel context.CancelFunc
		calls, cancel = context.WithTimeout(ctx, time.Duration(a.config.StartTimeout))
		defer cancel()
	}

	token, tendAt := time.NewTimer(0), time.Now()
	defer token.Stop()
	tendIn := func(wait time.Duration) {
		tendAt = time.Now().Add(wait)
		token.Reset(wait)
	}
	next := time.NewTimer(never)
	defer next.Stop()
	retirement := time.NewTimer(never)
	defer retirement.Stop()
	rounds := make(chan []rendered, 1) // at the end nobody waits for the last one
	var fetching *session              // the one that a round runs under, if one does
	for {
		// The token comes first: where Vault is still down, one call tells.
		if fetching == nil && a.session != nil && !a.session.dead && time.Now().Before(tendAt) {
			wait := time.Until(a.nextRound())
			next.Reset(wait)
			if wait <= 0 {
				fetching = a.session
				go func(r *round, due []*entry) { rounds <- r.fetch(due) }(a.newRound(calls, fetching), a.due())
			}
		}
		retirement.Reset(time.Until(a.nextRetirement()))
		a.share()
		select {
		case <-a.ops.nudge:
		case dead := <-a.ops.dead:
			if a.disown(dead) {
				tendIn(a.deadBackoff.next(a.started, 0))
			}
		case <-calls.Done():
			if ctx.Err() == nil {
				return a.giveUp()
			}
			return a.end()
		case <-token.C:
			tendIn(a.tend(calls))
		case <-next.C:
		case <-retirement.C:
			a.retireDue()
		case set := <-a.notifier.told:
			a.remember(set)
			a.settle(false)
		case out := <-rounds:
			s := fetching
			fetching = nil
			if calls.Err() != nil {
				continue // too late
			}
			heard := !a.unheard()
			a.apply(out, s)
			if a.open && a.once() {
				return a.finish()
			}
			// The next round is minutes away: what this one took is given back.
			a.rest()
			if a.started {
				calls = ctx
			}
			switch {
			case a.session.dead:
				tendIn(a.deadBackoff.next(a.started, 0))
			case a.relogin:
				tendIn(0)
			case heard && a.unheard():
				tendIn(a.untilTend())
			}
		}
	}
}

// once reports whether the agent publishes once and ends.
func (a *Agent) once() bool { return a.config.Lifecycle == config.Init }

// prepare finds out what an earlier run in this pod has left.
func (a *Agent) prepare() error {
	if err := a.volume.Prepare(); err != nil {
		return err
	}
	_, err := a.volume.ReadPrivate(keptRevoked)
	revoked := err == nil
	switch a.config.Lifecycle {
	case config.Init:
		// No app runs beside an init container: each run makes the set anew.
	case config.Sidecar:
		a.open = a.volume.Set() != "" && !revoked
		if err := errors.Join(a.volume.OpenGate(), a.tellNobody()); err != nil {
			return err
		}
	default:
		a.open = a.volume.GateOpen() && !revoked
	}
	a.started = a.open || revoked
	a.candidate = a.remembered()
	a.recallInputs()
	kept, err := a.volume.Private(keptAnswer)
	for _, e := range a.entries {
		// What is kept may be all that is needed, and Vault not asked.
		e.heard = e.file.Data == nil && len(kept) == 0
	}
	return err
}

// connect makes the transport at its first use: the file with the CA may come
// later than the agent.
func (a *Agent) connect() error {
	if a.transport != nil {
		return nil
	}
	t, err := dial(a.config.Vault, a.log)
	if err != nil {
		return err
	}
	a.transport = counted{t, a.ops.meter}
	return nil
}
