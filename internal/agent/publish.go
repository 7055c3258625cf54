package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
)

// apply publishes what a round brought and says when the next is due.
func (a *Agent) apply(out []rendered, s *session) {
	o := a.assess(out, s)
	held := o.first != "" && !a.open
	if held {
		a.setReason(o.first)
	}
	// Apps that run already are not made to wait with those that start.
	if held && !a.started {
		a.postpone(out, o)
		return
	}
	err := a.publish(out)
	if err == nil && !a.open && !held {
		err = a.openGate()
	}
	if err != nil {
		p, about := problemOf(err), "volume"
		if errors.As(err, new(*Problem)) {
			about = "wrapping" // of the token, which Vault gives
		}
		a.tell(about, p)
		if !a.open {
			a.setReason(p.Text)
		}
		a.postpone(out, o)
		return
	}
	a.solved("volume")
	a.noteInputs(out)
	a.publishAt = a.wrapping.due
	a.schedule(out, o)
	a.announce()
	if held {
		a.postpone(out, o)
		return
	}
	switch {
	case o.down:
		a.pause = time.Now().Add(a.roundPause(o))
	case len(out) > 0:
		a.fetchBackoff.reset()
	}
	a.settle(len(out) > 0 && s == a.session && !o.down && !o.passing)
}

// publish makes the set of what a round brought and of what stays.
func (a *Agent) publish(out []rendered) error {
	brought := make(map[*entry]rendered, len(out))
	for _, r := range out {
		brought[r.entry] = r
	}
	var set []volume.File
	for _, e := range a.entries {
		r, ok := brought[e]
		mode := fs.FileMode(e.file.Mode)
		if !ok || r.err != nil || r.unchanged {
			for _, p := range e.file.Paths() {
				set = append(set, volume.File{Path: p, Mode: mode, Keep: true})
			}
			continue
		}
		if r.absent && !e.absent {
			a.log.Info("left out, since its secret does not exist", "path", e.file.Path)
		}
		e.absent = r.absent
		for _, f := range r.files {
			set = append(set, volume.File{Path: f.Path, Mode: mode, Content: f.Content})
		}
	}
	if a.config.TokenFile != nil {
		files, err := a.tokenFiles()
		if err != nil {
			return err
		}
		set = append(set, files...)
	}
	changed, err := a.volume.Publish(set)
	if len(changed) > 0 {
		a.ops.meter.inc(metricPublications)
		a.log.Info("published files", "changed", changed, "files", len(set))
	}
	return err
}

// postpone tries a round again that could not be published.
func (a *Agent) postpone(out []rendered, o outcome) {
	a.pause = time.Now().Add(a.roundPause(o))
	for _, r := range out {
		r.failed, r.due, r.wanted = r.problem() != nil, time.Time{}, r.overdue()
	}
}

// readFailed makes a new token's first round read what failed under the old one.
func (a *Agent) readFailed() {
	a.pause = time.Time{}
	for _, e := range a.entries {
		if e.failed {
			e.due = time.Time{}
		}
	}
}

// outcome is what the files of a round say together.
type outcome struct {
	first      string // why an app that starts has to wait, or ""
	down       bool   // every call would fail: Vault, the way to it, or the token
	everywhere bool   // it is Vault, or the way to it
	passing    bool   // some file's problem is expected to pass
	retryAfter time.Duration
}

// assess tells of a round's problems and draws the conclusions for the token
// that it ran under.
func (a *Agent) assess(out []rendered, s *session) (o outcome) {
	lacking, invalid := 0, false
	for _, r := range out {
		at := r.file.Path
		about := "path " + at
		if r.problem() == nil {
			r.denied, r.missing, r.succeeded = false, false, time.Now()
			a.solved(about)
			continue
		}
		p := *problemOf(r.problem())
		r.denied = p.Denied || r.denied && p.Everywhere
		r.missing = p.Missing || r.missing && p.Everywhere
		if p.Denied && (a.lent() || a.unrevocable) {
			p.Text += "; what the role is given now reaches only the pod's next token (delete the pod to have it at once)"
		}
		switch {
		case !p.Everywhere && !p.InvalidToken:
			p.Text = fmt.Sprintf("path %q: %s", at, p.Text)
			a.tell(about, &p)
		case !o.down:
			o.down = true
			a.tell("Vault", &p)
		}
		// Where apps have been running, what was published last is good for more.
		if r.err != nil && (o.down || !a.started || !a.published(r.entry)) {
			if lacking == 0 {
				o.first = p.Text
			}
			lacking++
		}
		invalid = invalid || p.InvalidToken
		o.everywhere = o.everywhere || p.Everywhere
		o.passing = o.passing || !p.Act
		o.retryAfter = max(o.retryAfter, p.RetryAfter)
		if p.Denied && !a.bears(s) {
			a.relogin, a.loginTried = true, time.Now()
		}
	}
	if lacking > 1 && !o.down {
		o.first = fmt.Sprintf("%s (and %d more)", o.first, lacking-1)
	}
	if len(out) == 0 {
		return o
	}
	if !o.down {
		a.endRest()
		a.solved("Vault")
	}
	if s == a.session && !slices.ContainsFunc(a.entries, func(e *entry) bool { return e.denied }) {
		s.Patience = 0
	}
	if !invalid {
		a.deadBackoff.reset()
	} else if s == a.session {
		s.dead = true
	}
	return o
}

// published reports whether all files of an entry are in the published set.
func (a *Agent) published(e *entry) bool {
	return !slices.ContainsFunc(e.file.Paths(), func(p string) bool { return !a.volume.Has(p) })
}

// openGate lets apps start on the first set.
func (a *Agent) openGate() error {
	if !a.started && len(a.config.Notify) > 0 {
		// Nobody needs to be told of the first set.
		if err := a.volume.WritePrivate(keptTold, []byte(a.volume.Set())); err != nil {
			return err
		}
	}
	if err := a.volume.OpenGate(); err != nil {
		return err
	}
	a.open, a.started = true, true
	a.log.Info("ready", "after", time.Since(a.began).Round(time.Millisecond).String())
	return errors.Join(a.volume.RemovePrivate(keptRevoked), a.volume.RemovePrivate(keptStatus))
}

// announce tells those who want to know of the published set, unless they know.
// A set of an earlier run is announced as well, where that did not get to it.
func (a *Agent) announce() {
	if len(a.config.Notify) == 0 {
		return
	}
	// Nothing is kept before the first set, which nobody is told of.
	told, err := a.volume.ReadPrivate(keptTold)
	if set := a.volume.Set(); err == nil && string(told) != set {
		a.notifier.announce(set)
	}
}

// everyoneKnows reports whether everyone was told of the published set who wants
// to know.
func (a *Agent) everyoneKnows() bool {
	told, err := a.volume.ReadPrivate(keptTold)
	return len(a.config.Notify) == 0 || err == nil && string(told) == a.volume.Set()
}

// tellNobody makes up for a run that was killed between a sidecar's first
// publication and its note that nobody needs to be told of it: where nothing is
// noted, nobody would ever be told of anything.
func (a *Agent) tellNobody() error {
	set := a.volume.Set()
	if _, err := a.volume.ReadPrivate(keptTold); len(a.config.Notify) == 0 || set == "" || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return a.volume.WritePrivate(keptTold, []byte(set))
}

// remember keeps which set everyone was told of.
func (a *Agent) remember(set string) {
	if err := a.volume.WritePrivate(keptTold, []byte(set)); err != nil {
		a.log.Warn("keeping what was told; it is told again after a restart", "reason", err)
	}
}
