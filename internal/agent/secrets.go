package agent

import (
	"context"
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
	// reads names what the entry asked Vault for.
	reads []string
	// unchanged means that the published files are those to publish.
	unchanged bool
	// inputs is a digest of what the files were made of, where rendering them
	// once more would give others.
	inputs string
	// again is when the first of the entry's writes is due again.
	again time.Time
	err   error
}

// round reads every secret once, however many entries want it, and renders
// entries.
type round struct {
	agent   *Agent
	session *session
	ctx     context.Context

	mu    sync.Mutex
	calls map[string]*call
	// down is set once a call failed in a way that all others would: then the
	// round is over, and a Vault in trouble is left alone.
	down *Problem
}

type call struct {
	done   chan struct{}
	secret *render.Secret
	again  time.Time // of a write
	err    error
}

// fetch runs one round. It changes nothing but the cache of mounts and what is
// kept of writes.
func (a *Agent) fetch(ctx context.Context, s *session, due []*entry) []rendered {
	r := &round{agent: a, session: s, ctx: ctx, calls: make(map[string]*call)}
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
	return out
}

func (r *round) render(e *entry) rendered {
	out := rendered{entry: e}
	result, err := e.render.Render(func(q render.Request) (*render.Secret, error) {
		c, key, err := r.lookup(q)
		if key != "" {
			out.reads = append(out.reads, key)
		}
		if err != nil {
			return nil, err
		}
		if out.again.IsZero() || !c.again.IsZero() && c.again.Before(out.again) {
			out.again = c.again
		}
		return c.secret, c.err
	}, e.inputs)
	out.files, out.unchanged, out.inputs, out.err = result.Files, result.Unchanged, result.Inputs, err
	var p *Problem
	if e.file.Optional && errors.As(out.err, &p) && p.Missing {
		out.absent, out.err = true, nil
	}
	return out
}

// lookup answers a request, whose key is the same for all that ask Vault the
// same. The first who asks makes the call; the others wait for it.
func (r *round) lookup(q render.Request) (c *call, key string, err error) {
	var at location
	if q.Data == nil {
		at, err = r.resolve(q)
		key = at.path + "?" + at.query.Encode()
		if at.list {
			key = "list " + key
		}
	} else {
		key, err = r.agent.writeKey(q)
	}
	if err != nil {
		return nil, "", err
	}
	r.mu.Lock()
	c, known := r.calls[key]
	if !known {
		c = &call{done: make(chan struct{})}
		r.calls[key] = c
	}
	r.mu.Unlock()
	if !known {
		if q.Data == nil {
			c.secret, c.err = r.read(at)
		} else {
			c.secret, c.again, c.err = r.write(q, key)
		}
		close(c.done)
	}
	<-c.done
	return c, key, nil
}

// read asks Vault for one secret.
func (r *round) read(at location) (*render.Secret, error) {
	doing := fmt.Sprintf("reading %q", at.path)
	if at.list {
		doing = fmt.Sprintf("listing %q", at.path)
	}
	if p := r.agent.refused.at(at.path); p != nil {
		return nil, p
	}
	if p := r.isDown(); p != nil {
		return nil, p
	}
	e := &exchange{}
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
		return render.NewSecret(render.View{Data: map[string]any{"keys": []any{}}}, false), nil
	case e.status == http.StatusNotFound:
		// The mount may be another by now.
		r.agent.mounts.forget(at.mount)
		text := "no such secret (404): write it, or correct the path"
		if s != nil && s.Data["metadata"] != nil {
			text = "its version is deleted (404): undelete it, or write a new one"
		}
		return nil, &Problem{Act: true, Missing: true, Text: doing + ": " + text}
	case s != nil && s.LeaseID != "":
		return nil, r.refuse(doing, at.path, s.LeaseID)
	case s == nil || len(s.Data) == 0:
		return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without data", doing, e.status)}
	case at.kv2:
		if _, ok := s.Data["data"].(map[string]any); !ok {
			return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without data of a KV v2 secret", doing, e.status)}
		}
	}
	return render.NewSecret(render.View{
		RequestID: s.RequestID, LeaseDuration: s.LeaseDuration, Renewable: s.Renewable, Data: s.Data, Warnings: s.Warnings,
	}, at.kv2), nil
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
