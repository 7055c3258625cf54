package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render"
)

// concurrency bounds the calls that one agent has under way.
const concurrency = 4

// rendered is the outcome of one entry of a round.
type rendered struct {
	*entry
	files []render.Output
	// absent means that the secret does not exist and need not.
	absent bool
	// unchanged means that the published files are those to publish.
	unchanged bool
	// inputs is a digest of what the files were made of, where rendering them
	// once more would give others.
	inputs string
	// reads names what the entry asked Vault for, takers the tokens on which
	// leases of that hang.
	reads, takers []string
	// polled means that some of it is read again at the entry's interval, again
	// when something is due besides, and heard that something of it has Vault
	// asked now and then; see result.
	polled, heard bool
	again         time.Time
	// trouble is why something could not be renewed or replaced in time: the
	// files are good still.
	trouble error
	err     error
}

// problem is what went wrong, whether there are files or not.
func (r *rendered) problem() error {
	if r.err != nil {
		return r.err
	}
	return r.trouble
}

// add adds what one request brought.
func (r *rendered) add(res result) {
	r.polled, r.heard = r.polled || res.polled, r.heard || res.polled || res.heard
	r.again = earlier(r.again, res.again)
	if res.taker != "" {
		r.takers = append(r.takers, res.taker)
	}
	if r.trouble == nil {
		r.trouble = res.trouble
	}
}

// earlier is the earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// want is what a round asks Vault for.
type want struct {
	render.Request
	at  location
	key string // the same for all that ask the same
	by  *entry // who asked first
}

// result is what a round has for a request.
type result struct {
	secret *render.Secret
	// polled means that it is read again at the interval of whoever wants it.
	polled bool
	// again is when it is due, at the interval or not; zero is never.
	again time.Time
	// heard means that it has Vault asked now and then, as polled does.
	heard bool
	// taker names the token on which its lease hangs, if it has one.
	taker string
	// trouble is why it was not renewed or replaced, though it is good still.
	trouble error
	err     error
}

// round reads every secret once, however many entries want it, and renders
// entries.
type round struct {
	agent   *Agent
	session *session
	ctx     context.Context
	// ends are the ends of the tokens that are good, by their names, and final
	// that of the session if it has no more renewals.
	ends  map[string]time.Time
	final time.Time

	mu    sync.Mutex
	calls map[string]*call
	// down is set once a call failed in a way that all others would: then the
	// round is over, and a Vault in trouble is left alone.
	down *Problem
}

type call struct {
	done chan struct{}
	result
}

// newRound prepares a round under a session.
func (a *Agent) newRound(ctx context.Context, s *session) *round {
	r := &round{agent: a, session: s, ctx: ctx, calls: make(map[string]*call), ends: make(map[string]time.Time)}
	know := func(s *session) {
		end := s.Expires
		if s.TTL == 0 {
			end = time.Now().Add(never)
		}
		r.ends[s.id()] = end
	}
	for _, old := range a.retired {
		know(old.session)
	}
	know(s)
	if !s.Renewable && s.TTL > 0 {
		r.final = s.Expires
	}
	return r
}

// fetch runs a round. It changes nothing of the agent but the cache of mounts,
// and the answers that are kept.
func (r *round) fetch(due []*entry) []rendered {
	out := make([]rendered, len(due))
	var wg sync.WaitGroup
	slots := make(chan struct{}, concurrency)
	for i, e := range due {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			out[i] = r.render(e)
		})
	}
	wg.Wait()
	for i := range out {
		if out[i].err != nil {
			r.hold(&out[i])
		}
	}
	return out
}

func (r *round) render(e *entry) rendered {
	out := rendered{entry: e}
	result, err := e.render.Render(func(q render.Request) (*render.Secret, error) {
		c, key, err := r.lookup(q, e)
		if key != "" {
			out.reads = append(out.reads, key)
		}
		if err != nil {
			return nil, err
		}
		out.add(c.result)
		return c.secret, c.err
	}, e.inputs)
	out.files, out.unchanged, out.inputs, out.err = result.Files, result.Unchanged, result.Inputs, err
	var p *Problem
	if e.file.Optional && errors.As(out.err, &p) && p.Missing {
		out.absent, out.polled, out.heard, out.err = true, true, true, nil
	}
	return out
}

// lookup answers a request, whose key is the same for all that ask Vault the
// same. The first who asks makes the call; the others wait for it.
func (r *round) lookup(q render.Request, e *entry) (c *call, key string, err error) {
	w := want{Request: q, by: e}
	if q.Data == nil {
		w.at, err = r.resolve(q)
		kind := "read"
		if w.at.list {
			kind = "list"
		}
		w.key = r.agent.key(kind, w.at.path, w.at.query.Encode())
	} else {
		w.at.path = strings.Trim(q.Path, "/")
		w.key, err = r.agent.writeKey(q)
	}
	if err != nil {
		return nil, "", err
	}
	r.mu.Lock()
	c, known := r.calls[w.key]
	if !known {
		c = &call{done: make(chan struct{})}
		r.calls[w.key] = c
	}
	r.mu.Unlock()
	if !known {
		c.result = r.answer(w)
		close(c.done)
	}
	<-c.done
	return c, w.key, nil
}

// take asks Vault. What would be made anew by asking again is kept. Before says
// that there was an answer once.
func (r *round) take(w want, before bool) result {
	if p := r.agent.refused.at(w.key); p != nil {
		return result{err: p}
	}
	if p := r.isDown(); p != nil {
		return result{err: p}
	}
	e, asked := &exchange{}, time.Now()
	var s *api.Secret
	var err error
	if w.Data == nil {
		s, err = r.read(w, e)
	} else {
		s, err = r.write(w, e, before)
	}
	switch {
	case err != nil:
		return result{err: err}
	case w.Data == nil && (s.LeaseID == "" || w.at.kv2):
		if before {
			r.agent.forget(w.key)
		}
		again := r.agent.changes.next(w, s, e.date)
		secret := render.NewSecret(render.View{
			RequestID: s.RequestID, LeaseDuration: s.LeaseDuration, Renewable: s.Renewable, Data: s.Data, Warnings: s.Warnings,
		}, w.at.kv2)
		return result{secret: secret, polled: true, again: again}
	case s.LeaseID != "" && r.session.Uses > 0:
		return result{err: r.refuse(w, s.LeaseID)}
	}
	now := newAnswer(s, r.session.id())
	if now.LeaseID != "" {
		now.granted(asked, grant(&api.SecretAuth{LeaseDuration: s.LeaseDuration}), r.final)
	}
	if w.Data != nil {
		r.written(w, s, e, now)
	}
	r.keep(w, now)
	return now.result(nil)
}

// read asks Vault for one secret.
func (r *round) read(w want, e *exchange) (*api.Secret, error) {
	at := w.at
	doing := fmt.Sprintf("reading %q", at.path)
	if at.list {
		doing = fmt.Sprintf("listing %q", at.path)
	}
	var s *api.Secret
	var err error
	if at.list {
		s, err = r.session.secrets.Logical().ListWithContext(watch(r.ctx, e), at.path)
	} else {
		s, err = r.session.secrets.Logical().ReadWithDataWithContext(watch(r.ctx, e), at.path, at.query)
	}
	switch {
	case err != nil:
		p := r.failed(doing, err, e)
		if p.Denied {
			needs := "read"
			if at.list {
				needs = "list"
			}
			p.Text += fmt.Sprintf(" (a policy of %s must allow %s on it)", r.agent.principal(), needs)
		}
		return nil, p
	case s != nil && s.WrapInfo != nil:
		return nil, &Problem{Text: doing + ": answered with a wrapped secret that nobody asked for"}
	case e.status == http.StatusNotFound && at.list: // nothing lies there
		return &api.Secret{Data: map[string]any{"keys": []any{}}}, nil
	case e.status == http.StatusNotFound:
		// The mount may be another by now.
		r.agent.mounts.forget(at.mount)
		text := "no such secret (404): write it, or correct the path"
		if s != nil && s.Data["metadata"] != nil {
			text = "its version is deleted (404): undelete it, or write a new one"
		}
		return nil, &Problem{Act: true, Missing: true, Text: doing + ": " + text}
	case s == nil || len(s.Data) == 0:
		return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without data", doing, e.status)}
	case at.kv2:
		if _, ok := s.Data["data"].(map[string]any); !ok {
			return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without data of a KV v2 secret", doing, e.status)}
		}
	}
	return s, nil
}

func (r *round) isDown() *Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// failed classifies the failure of a call. One that all others would meet as
// well reads the same whichever call met it, so that it is told of once.
func (r *round) failed(doing string, err error, e *exchange) *Problem {
	p := classify(doing, err, e)
	if p.status == http.StatusTooManyRequests {
		p.Everywhere = false // a quota may be of one path or mount
	}
	if p.Everywhere || p.InvalidToken {
		p.Text = "asking " + r.agent.config.Vault.Address + strings.TrimPrefix(p.Text, doing)
		r.mu.Lock()
		r.down = p
		r.mu.Unlock()
	}
	return p
}

// problemOf returns err as a Problem: what is none is about rendering, which
// only someone who changes template or secret can remedy.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Act: true, Text: err.Error()}
}

// secondsOf reads a number of seconds from an answer; none is zero.
func secondsOf(v any) time.Duration {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	s, err := n.Int64()
	if err != nil {
		return 0
	}
	return seconds(int(s))
}
