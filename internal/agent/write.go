package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// issued is the answer to a write as it lies in the private part of the volume:
// a write makes something each time, so an agent that is started again goes on
// with what was made.
type issued struct {
	// Again is when to write again; zero is never.
	Again time.Time
	// End is when what was made is no good any more; zero is not known.
	End           time.Time
	LeaseDuration int // seconds
	Data          map[string]any
	Warnings      []string
}

// writeKey tells writes apart. It is a name for a private file as well.
func (a *Agent) writeKey(q render.Request) (string, error) {
	// Maps are encoded with their keys sorted.
	data, err := json.Marshal(q.Data)
	if err != nil {
		return "", fmt.Errorf("encoding the data of %q: %w", q.Path, err)
	}
	sum := sha256.Sum256([]byte(a.fingerprint() + "\x00" + strings.Trim(q.Path, "/") + "\x00" + string(data)))
	return keptWrite + hex.EncodeToString(sum[:]), nil
}

// write returns what an earlier write brought for as long as that is good, and
// else writes. An init container, which has no last good files to go on with, is
// given what is near its end rather than nothing.
func (r *round) write(q render.Request, key string) (*render.Secret, time.Time, error) {
	was := r.agent.issuedBefore(key)
	if was != nil && (was.Again.IsZero() || time.Now().Before(was.Again)) {
		return was.secret(), was.Again, nil
	}
	now, err := r.issue(q, key, was != nil)
	if err == nil {
		return now.secret(), now.Again, nil
	}
	if r.agent.once() && was != nil && time.Now().Before(was.End) && !problemOf(err).Act {
		r.agent.log.Warn("publishing what an earlier run was given, since there is no other now", "until", was.End.UTC().Truncate(time.Second), "reason", err)
		return was.secret(), was.Again, nil
	}
	return nil, time.Time{}, err
}

// issue writes, and keeps the answer. Before says that an earlier write had one.
func (r *round) issue(q render.Request, key string, before bool) (*issued, error) {
	a := r.agent
	p := strings.Trim(q.Path, "/")
	doing := fmt.Sprintf("writing %q", p)
	if p := a.refused.at(key); p != nil {
		return nil, p
	}
	if p := r.isDown(); p != nil {
		return nil, p
	}
	e := &exchange{}
	s, err := r.session.secrets.Logical().WriteWithContext(watch(r.ctx, e), p, q.Data)
	switch {
	case err != nil:
		p := r.failed(doing, err, e)
		if p.Denied {
			p.Text += fmt.Sprintf(" (a policy of %s must allow update on it)", a.principal())
		}
		p.Missing = p.status == http.StatusNotFound
		if errors.Is(err, errTooLong) {
			return nil, r.unusable(key, p.Text, before)
		}
		return nil, p
	case e.status == http.StatusNotFound: // with data, which the library takes for success
		return nil, &Problem{Act: true, Missing: true, Text: doing + ": answered 404"}
	case s != nil && s.LeaseID != "":
		return nil, r.refuse(doing, key, s.LeaseID)
	case s != nil && s.WrapInfo != nil:
		return nil, r.unusable(key, doing+": answered with a wrapped secret"+wantData, before)
	case s != nil && s.Auth != nil:
		return nil, r.unusable(key, doing+": answered with a token"+wantData, before)
	case s == nil || len(s.Data) == 0:
		return nil, r.unusable(key, fmt.Sprintf("%s: answered %d without data%s", doing, e.status, wantData), before)
	}
	now := &issued{LeaseDuration: s.LeaseDuration, Data: s.Data, Warnings: s.Warnings}
	life, ends := lifeOf(s, e.date)
	if ends {
		now.End = time.Now().Add(life)
	}
	now.Again = a.writeAgain(key, life, ends && life <= 0)
	if ends && life <= 0 {
		a.log.Warn(doing + ": the answer states an end that is over; it is published all the same, and asked for again later")
	}
	if err := a.keep(key, now); err != nil {
		a.log.Warn("keeping the answer of a write for a restart", "path", p, "reason", err)
	}
	return now, nil
}

func (i *issued) secret() *render.Secret {
	return render.NewSecret(render.View{LeaseDuration: i.LeaseDuration, Data: i.Data, Warnings: i.Warnings}, false)
}

// unkept are answers of writes that could not be kept in the volume, which may
// be full: in this run they are as good as the others.
type unkept struct {
	mu      sync.Mutex
	answers map[string]*issued
}

// keep keeps an answer for this run and, unless it is an error, for later ones.
func (a *Agent) keep(key string, now *issued) error {
	data, err := json.Marshal(now)
	if err == nil {
		err = a.volume.WritePrivate(key, data)
	}
	a.unkept.mu.Lock()
	defer a.unkept.mu.Unlock()
	if err == nil {
		delete(a.unkept.answers, key)
		return nil
	}
	if a.unkept.answers == nil {
		a.unkept.answers = make(map[string]*issued)
	}
	a.unkept.answers[key] = now
	return err
}

// issuedBefore returns what is kept of a write, or nil.
func (a *Agent) issuedBefore(key string) *issued {
	a.unkept.mu.Lock()
	now := a.unkept.answers[key]
	a.unkept.mu.Unlock()
	if now != nil {
		_ = a.keep(key, now) // there may be room by now; that there was none has been told
		return now
	}
	data, err := a.volume.ReadPrivate(key)
	if err != nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var was issued
	if dec.Decode(&was) != nil || len(was.Data) == 0 {
		return nil
	}
	return &was
}

// writeAgain says when to write again: at the shortest interval that an entry
// with this write states, and at two thirds of the life that the answer states.
// Where that is over already, at the interval of other secrets: another answer
// may be no better.
func (a *Agent) writeAgain(key string, life time.Duration, over bool) (at time.Time) {
	sooner := func(after time.Duration) {
		if t := time.Now().Add(max(after, config.MinRefresh)); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, e := range a.entries {
		f := e.file
		if f.Data == nil || f.Refresh == 0 && !over {
			continue
		}
		if k, err := a.writeKey(render.Request{Path: f.Secret, Data: f.Data}); err == nil && k == key {
			sooner(spread(e.interval(a)))
		}
	}
	if life > 0 {
		sooner(life*2/3 - jitter(life/10))
	}
	return at
}

// lifeOf is how long an answer without a lease says that it is good for, and
// whether it says: PKI's answers hold their certificate's end in seconds of Unix
// time, by the clock of the server that gave the answer its date.
func lifeOf(s *api.Secret, date time.Time) (life time.Duration, ends bool) {
	if n, ok := s.Data["expiration"].(json.Number); ok {
		if end, err := n.Int64(); err == nil && end > 0 {
			if date.IsZero() {
				date = time.Now()
			}
			return min(time.Unix(end, 0).Sub(date), never), true
		}
	}
	life = grant(&api.SecretAuth{LeaseDuration: s.LeaseDuration})
	return life, life > 0
}

// refusals remember what came with a lease, and writes that brought nothing to
// publish, so that no second one is made.
type refusals struct {
	mu   sync.Mutex
	seen map[string]*Problem
}

func (r *refusals) at(key string) *Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[key]
}

func (r *refusals) add(key string, p *Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[string]*Problem)
	}
	r.seen[key] = p
}

func (r *refusals) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen) > 0
}

const wantData = " (a path whose answer has data)"

// unusable is a write that was done and brought nothing to publish. It may have
// made something all the same, such as a token below the agent's own, so it is
// not repeated; but a path that has answered with data before will again.
func (r *round) unusable(key, text string, before bool) *Problem {
	p := &Problem{Act: true, Text: text}
	if !before {
		r.agent.refused.add(key, p)
	}
	return p
}

// refuse remembers that an answer came with a lease, and revokes it: nobody
// will use it.
func (r *round) refuse(doing, key, lease string) *Problem {
	problem := &Problem{Act: true, Text: doing + ": the answer has a lease, which this release cannot keep alive (use a secret of a KV engine)"}
	r.agent.refused.add(key, problem)
	e := &exchange{}
	if _, err := r.session.secrets.Logical().WriteWithContext(watch(r.ctx, e), "sys/leases/revoke", map[string]any{"lease_id": lease}); err != nil {
		// Vault's default policy does not allow it.
		r.agent.log.Debug("the lease runs out by itself, or with the token", "reason", classify("revoking a lease", err, e))
	}
	return problem
}
