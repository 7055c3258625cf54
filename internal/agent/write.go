package agent

import (
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

// writeKey is the key of a write.
func (a *Agent) writeKey(q render.Request) (string, error) {
	// Maps are encoded with their keys sorted.
	data, err := json.Marshal(q.Data)
	if err != nil {
		return "", fmt.Errorf("encoding the data of %q: %w", q.Path, err)
	}
	return a.key("write", strings.Trim(q.Path, "/"), string(data)), nil
}

// write has Vault make something. Before says that this write had an answer once.
func (r *round) write(w want, e *exchange, before bool) (*api.Secret, error) {
	doing := fmt.Sprintf("writing %q", w.at.path)
	s, err := r.session.secrets.Logical().WriteWithContext(watch(r.ctx, e), w.at.path, w.Data)
	switch {
	case err != nil:
		p := r.failed(doing, err, e)
		if p.Denied {
			p.Text += fmt.Sprintf(" (a policy of %s must allow update on it)", r.agent.principal())
		}
		p.Missing = p.status == http.StatusNotFound
		if errors.Is(err, errTooLong) {
			return nil, r.unusable(w.key, p.Text, before)
		}
		return nil, p
	case e.status == http.StatusNotFound: // with data, which the library takes for success
		return nil, &Problem{Act: true, Missing: true, Text: doing + ": answered 404"}
	case s != nil && s.WrapInfo != nil:
		return nil, r.unusable(w.key, doing+": answered with a wrapped secret"+wantData, before)
	case s != nil && s.Auth != nil:
		return nil, r.unusable(w.key, doing+": answered with a token"+wantData, before)
	case s == nil || len(s.Data) == 0:
		return nil, r.unusable(w.key, fmt.Sprintf("%s: answered %d without data%s", doing, e.status, wantData), before)
	}
	return s, nil
}

// written says until when what a write brought is good, and when to write again.
func (r *round) written(w want, s *api.Secret, e *exchange, now *answer) {
	life, ends := lifeOf(s, e.date)
	if ends {
		now.End = earlier(now.End, time.Now().Add(life))
	}
	now.Again = earlier(now.Again, r.agent.writeAgain(w, life, ends))
	if ends && life <= 0 {
		r.agent.log.Warn(fmt.Sprintf("writing %q: the answer states an end that is over; it is published all the same, and asked for again later", w.at.path))
	}
}

// writeAgain says when to write again: at the shortest interval that an entry
// with this write states, and at two thirds of the life that the answer states.
// Where that is over already, at the interval of other secrets: another answer
// may be no better. The interval of a template is about what it reads as well: it
// counts only where the answer does not say how long it is good for.
func (a *Agent) writeAgain(w want, life time.Duration, ends bool) (at time.Time) {
	sooner := func(after time.Duration) {
		at = earlier(at, time.Now().Add(max(after, config.MinRefresh)))
	}
	over := ends && life <= 0
	for _, e := range a.entries {
		f := e.file
		if f.Refresh == 0 && !over {
			continue
		}
		asks := e == w.by && !ends
		if f.Data != nil {
			k, err := a.writeKey(render.Request{Path: f.Secret, Data: f.Data})
			asks = err == nil && k == w.key
		}
		if asks || over && e == w.by {
			sooner(spread(e.interval(a)))
		}
	}
	if life > 0 {
		sooner(life*2/3 - jitter(life/10))
	}
	return at
}

// lifeOf is how long an answer says that it is good for beside its lease, and
// whether it says. PKI's answers hold their certificate's end in seconds of Unix
// time, by the clock of the server that gave the answer its date; AppRole's the
// life of a secret id.
func lifeOf(s *api.Secret, date time.Time) (life time.Duration, ends bool) {
	if n, ok := s.Data["expiration"].(json.Number); ok {
		if end, err := n.Int64(); err == nil && end > 0 {
			if date.IsZero() {
				date = time.Now()
			}
			return min(time.Unix(end, 0).Sub(date), never), true
		}
	}
	if s.LeaseID == "" {
		life = grant(&api.SecretAuth{LeaseDuration: s.LeaseDuration})
	}
	if life == 0 {
		life = secondsOf(s.Data["secret_id_ttl"])
	}
	return life, life > 0
}

// refusals remember what brought nothing to publish, so that no second one is
// made.
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
