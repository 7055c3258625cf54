package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// What the proxy remembers is bounded, in answers and in bytes: it lies in the
// memory of every pod. What does not fit is asked for anew.
const (
	maxShared       = 256
	maxSharedAnswer = 64 << 10
	maxSharedBytes  = 1 << 20
)

// sharedKey tells requests apart by namespace, method, path, query, body and
// token.
type sharedKey [sha256.Size]byte

func (p *proxy) key(q *asked) (key sharedKey) {
	namespace := p.config.Vault.Namespace
	if stated, ok := q.header[namespaceHeader]; ok && len(stated) > 0 {
		namespace = stated[0]
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(namespace), []byte(q.method), []byte(q.path), []byte(q.query), []byte(q.token.Reveal()), q.body.Reveal()} {
		// With its length, so that no two lists of parts are written alike.
		_, _ = h.Write(append(strconv.AppendInt(nil, int64(len(part)), 10), ':'))
		_, _ = h.Write(part)
	}
	return sharedKey(h.Sum(nil))
}

// shareable are the methods that an engine hands out leases by.
func shareable(method string) bool {
	return method == http.MethodGet || method == http.MethodPut || method == http.MethodPost
}

// shared are leased answers that a request which is the same is given as well,
// while the lease lives. Nobody renews them but the apps.
type shared struct {
	mu      sync.Mutex
	answers map[sharedKey]*sharedAnswer
	bytes   int
	flights map[sharedKey]chan struct{}
	token   sealed.Value[string] // the agent's, under which ours were given
}

type sharedAnswer struct {
	answered
	ends time.Time // of the lease, unless its token ends before
	ours bool      // given under the agent's token
}

// take waits until no request of this key is under way.
func (s *shared) take(ctx context.Context, key sharedKey) (release func(), err error) {
	for {
		s.mu.Lock()
		flight, flying := s.flights[key]
		if !flying {
			flight = make(chan struct{})
			if s.flights == nil {
				s.flights = make(map[sharedKey]chan struct{})
			}
			s.flights[key] = flight
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.flights, key)
				s.mu.Unlock()
				close(flight)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// find returns an answer that is still good, with what is left of its lease.
func (s *shared) find(key sharedKey, v *view) *answered {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(v)
	found := s.answers[key]
	if found == nil {
		return nil
	}
	left := time.Until(found.ends)
	if found.ours && v.tokenTTL > 0 {
		left = min(left, time.Until(v.tokenExpires))
	}
	if left < time.Second {
		return nil
	}
	return found.after(left)
}

// after is the answer with another lease_duration: an app that renews at a part
// of it would otherwise be late.
func (a *sharedAnswer) after(left time.Duration) *answered {
	var body map[string]json.RawMessage
	if json.Unmarshal(a.body.Reveal(), &body) != nil {
		return nil
	}
	body["lease_duration"] = json.RawMessage(strconv.Itoa(int(left / time.Second)))
	data, err := json.Marshal(body)
	if err != nil {
		return nil
	}
	return &answered{a.status, a.header, sealed.Of(data)}
}

// keep remembers an answer that has a lease.
func (s *shared) keep(key sharedKey, a *answered, q *asked, v *view) {
	body := a.body.Reveal()
	lease := leaseOf(body)
	if a.status != http.StatusOK || lease <= 0 || len(body) > maxSharedAnswer {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(v)
	s.drop(key)
	if q.ours && q.token.Reveal() != s.token.Reveal() || len(s.answers) >= maxShared || s.bytes+len(body) > maxSharedBytes {
		return
	}
	if s.answers == nil {
		s.answers = make(map[sharedKey]*sharedAnswer)
	}
	header := a.header.Clone()
	header.Del("Date")
	s.answers[key] = &sharedAnswer{answered{a.status, header, a.body}, time.Now().Add(lease), q.ours}
	s.bytes += len(body)
}

// leaseOf is how long an answer's lease lives: not at all where it has none.
func leaseOf(body []byte) time.Duration {
	var head struct {
		LeaseID       string `json:"lease_id"`
		LeaseDuration int    `json:"lease_duration"` // seconds
	}
	if json.Unmarshal(body, &head) != nil || head.LeaseID == "" {
		return 0
	}
	return grant(&api.SecretAuth{LeaseDuration: head.LeaseDuration})
}

// sweep forgets what has ended, and what hung on a token that is not the
// agent's any more.
func (s *shared) sweep(v *view) {
	replaced := v.token.Reveal() != s.token.Reveal()
	for key, a := range s.answers {
		if time.Until(a.ends) < time.Second || a.ours && replaced {
			s.drop(key)
		}
	}
	s.token = v.token
}

func (s *shared) drop(key sharedKey) {
	if a := s.answers[key]; a != nil {
		s.bytes -= len(a.body.Reveal())
		delete(s.answers, key)
	}
}

// forget forgets all: something was revoked, and nobody knows what hung on it.
func (s *shared) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers, s.bytes = nil, 0
}
