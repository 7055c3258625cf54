// Package agent is what runs beside an app: it logs in to Vault, keeps the
// token alive, reads secrets, and publishes them as files into the volume that
// it shares with the app.
//
// Until the first publication it tries for the configured start timeout; after
// it, nothing in Vault or in the network makes it end, empty a file or give up
// a good credential.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// loginInterval bounds how often a lasting "permission denied" makes the agent
// log in again: policies that are added to a role reach only new tokens.
const loginInterval = 10 * time.Minute

// Agent is one agent. Its fields belong to the goroutine of Run, but for what
// has a lock of its own.
type Agent struct {
	config *config.Agent
	volume *volume.Volume
	log    *slog.Logger
	files  []*render.Renderer
	// transport carries all calls to Vault; nil until the first one.
	transport http.RoundTripper
	// rest is called after each round.
	rest   func()
	mounts mounts
	leases leases

	session *session
	// candidate is the token of an earlier run, not yet taken into use.
	candidate *session
	// retired is the token that was replaced last, if it is still good: it is
	// revoked when the secrets have been read under the new one.
	retired *session
	// open means that the app's containers may start: the first set is out.
	open bool
	// started means that apps may be running, the gate open or not.
	started bool
	// relogin asks for one try of a new login at the next look at the token.
	relogin    bool
	loginTried time.Time
	reason     string // why it is not ready, as last told
	told       map[string]string

	tokenBackoff, fetchBackoff backoff
	// deadBackoff keeps a Vault that gives tokens and calls them invalid from
	// being asked again and again.
	deadBackoff backoff
	began       time.Time
}

// New makes an agent of a valid configuration. An error means that a template
// is wrong.
func New(c *config.Agent, v *volume.Volume, log *slog.Logger) (*Agent, error) {
	a := &Agent{config: c, volume: v, log: log, rest: debug.FreeOSMemory, told: make(map[string]string)}
	var errs []error
	for _, f := range c.Files {
		r, err := render.New(f)
		errs = append(errs, err)
		a.files = append(a.files, r)
	}
	return a, errors.Join(errs...)
}

// Run works until ctx ends, then revokes its token and returns nil. It returns
// an error, with the reason in one line, if the first set of files is not out
// when the start timeout is over.
func (a *Agent) Run(ctx context.Context) error {
	a.began = time.Now()
	if err := a.volume.Prepare(); err != nil {
		return fmt.Errorf("preparing the shared volume: %w", err)
	}
	a.open = a.volume.GateOpen()
	_, err := a.volume.ReadPrivate(keptRevoked)
	revoked := err == nil
	a.started = a.open || revoked
	if !revoked {
		a.candidate = a.remembered()
	}

	// Until apps may be running, calls end with the start timeout as well.
	calls := ctx
	if !a.started {
		var cancel context.CancelFunc
		calls, cancel = context.WithTimeout(ctx, time.Duration(a.config.StartTimeout))
		defer cancel()
	}

	token := time.NewTimer(0)
	defer token.Stop()
	refresh := time.NewTimer(time.Hour)
	refresh.Stop()
	defer refresh.Stop()
	rounds := make(chan []rendered, 1) // at the end nobody waits for the last one
	var fetching *session              // the one that a round runs under, if one does
	wanted := true                     // a round is due as soon as there is a token
	for {
		if wanted && fetching == nil && a.session != nil && !a.session.dead {
			wanted, fetching = false, a.session
			refresh.Stop()
			go func(s *session) { rounds <- a.fetch(calls, s) }(fetching)
		}
		select {
		case <-calls.Done():
			if ctx.Err() == nil {
				return a.giveUp()
			}
			a.end()
			return nil
		case <-token.C:
			before, lacking := a.session, a.session == nil || a.session.dead || a.relogin
			token.Reset(a.tend(calls))
			wanted = wanted || lacking && a.session != before
		case <-refresh.C:
			wanted = true
		case files := <-rounds:
			s := fetching
			fetching = nil
			if calls.Err() != nil {
				continue // too late
			}
			refresh.Reset(a.apply(files, s))
			// The next round is minutes away: what this one took is given back.
			a.rest()
			if a.started {
				calls = ctx
			}
			switch {
			case a.session.dead:
				token.Reset(a.deadBackoff.next(a.started, 0))
			case a.relogin:
				token.Reset(0)
			}
		}
	}
}

// connect makes the transport at its first use: the file with the CA may come
// later than the agent.
func (a *Agent) connect() (err error) {
	if a.transport == nil {
		a.transport, err = dial(a.config.Vault)
	}
	return err
}

// tend looks after the token: it adopts one, logs in, or renews. It returns
// when to look again.
func (a *Agent) tend(ctx context.Context) time.Duration {
	err := a.keepToken(ctx)
	if ctx.Err() != nil {
		return time.Hour // nobody will look again
	}
	if err == nil {
		a.tokenBackoff.reset()
		a.solved("token")
		at, _ := a.session.next()
		return max(time.Until(at), 0)
	}
	p := problemOf(err)
	a.tell("token", p)
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
		if !s.Renewable {
			return nil // its first use tells whether it is still good
		}
	}
	relogin := a.relogin
	a.relogin = false
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
	if a.session != nil && !a.session.dead {
		a.retire() // one at a time: logins must not pile up tokens
		a.retired = a.session
	}
	a.session = s
	a.save(s)
	a.log.Info("logged in to Vault", "address", a.config.Vault.Address, "mount", a.config.Vault.Auth.Mount, "role", a.config.Vault.Auth.Role,
		"ttl", s.TTL.String(), "renewable", s.Renewable, "batch", s.Batch)
	return nil
}

// apply publishes what a round brought and returns when the next is due.
func (a *Agent) apply(files []rendered, s *session) time.Duration {
	o := a.assess(files, s)
	if o.first != "" && !a.open {
		a.setReason(o.first)
		return a.fetchBackoff.next(a.started, o.retryAfter)
	}
	set := make([]volume.File, len(files))
	for i, r := range files {
		f := a.config.Files[i]
		set[i] = volume.File{Path: f.Path, Mode: fs.FileMode(f.Mode), Content: r.content, Keep: r.err != nil}
	}
	changed, err := a.volume.Publish(set)
	if len(changed) > 0 {
		a.log.Info("published files", "changed", changed, "files", len(set))
	}
	if err == nil && !a.open {
		err = a.openGate()
	}
	if err != nil {
		p := &Problem{Act: true, Text: err.Error()}
		a.tell("volume", p)
		if !a.open {
			a.setReason(p.Text)
		}
		return a.fetchBackoff.next(a.started, 0)
	}
	a.solved("volume")
	switch {
	case o.down:
		return a.fetchBackoff.next(a.started, o.retryAfter)
	case o.passing:
		// The other files are read again no later than always.
		return min(a.fetchBackoff.next(a.started, o.retryAfter), a.refreshIn())
	}
	a.fetchBackoff.reset()
	if s == a.session {
		a.retire()
	}
	return a.refreshIn()
}

// outcome is what the files of a round say together.
type outcome struct {
	first      string // why the app's start has to wait, or ""
	down       bool   // every call would fail: Vault, the way to it, or the token
	passing    bool   // some file's problem is expected to pass
	retryAfter time.Duration
}

// assess tells of a round's problems and draws the conclusions for the token
// that it ran under.
func (a *Agent) assess(files []rendered, s *session) (o outcome) {
	failed, invalid := 0, false
	for i, r := range files {
		at := a.config.Files[i].Path
		about := "path " + at
		if r.err == nil {
			a.solved(about)
			continue
		}
		p := *problemOf(r.err)
		switch {
		case !p.Everywhere && !p.InvalidToken:
			p.Text = fmt.Sprintf("path %q: %s", at, p.Text)
			a.tell(about, &p)
		case !o.down:
			o.down = true
			a.tell("Vault", &p)
		}
		if failed == 0 {
			o.first = p.Text
		}
		failed++
		invalid = invalid || p.InvalidToken
		o.passing = o.passing || !p.Act
		o.retryAfter = max(o.retryAfter, p.RetryAfter)
		if p.Denied && s == a.session && time.Since(s.LoggedIn) > loginInterval && time.Since(a.loginTried) > loginInterval {
			a.relogin, a.loginTried = true, time.Now()
		}
	}
	if failed > 1 && !o.down {
		o.first = fmt.Sprintf("%s (and %d more)", o.first, failed-1)
	}
	if !o.down {
		a.solved("Vault")
	}
	if !invalid {
		a.deadBackoff.reset()
	} else if s == a.session {
		s.dead = true
	}
	return o
}

func (a *Agent) openGate() error {
	if err := a.volume.OpenGate(); err != nil {
		return err
	}
	a.open, a.started = true, true
	a.log.Info("ready", "after", time.Since(a.began).Round(time.Millisecond).String())
	return errors.Join(a.volume.RemovePrivate(keptRevoked), a.volume.RemovePrivate(keptStatus))
}

// refreshIn spreads the reads of pods that started together.
func (a *Agent) refreshIn() time.Duration {
	every := time.Duration(a.config.Refresh)
	return every - every/10 + jitter(every/5)
}
