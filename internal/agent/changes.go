package agent

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// changes knows when secrets without a lease say that they change.
type changes struct {
	mu        sync.Mutex
	rotations map[string]*rotation
}

// rotation is the password of a static role, which Vault rotates.
type rotation struct {
	last    string    // last_vault_rotation
	ttl     any       // at the first read since
	due     time.Time // when the next one is
	backoff backoff
}

// soon keeps the reads of many agents that wait for one instant apart.
const soon = 5 * time.Second

// next is when to read a secret because of what it says; zero is that it says
// nothing. Date is the server's, or zero. Where only the time until a rotation
// has gone by, the secret is made the same as before.
func (c *changes) next(w want, s *api.Secret, date time.Time) time.Time {
	now := time.Now()
	if date.IsZero() {
		date = now
	}
	if w.at.kv2 {
		// A version may have an end (delete_version_after).
		metadata, _ := s.Data["metadata"].(map[string]any)
		text, _ := metadata["deletion_time"].(string)
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil && at.After(date) {
			return now.Add(min(at.Sub(date), never) + time.Second + jitter(soon))
		}
		return time.Time{}
	}
	_, states := s.Data["ttl"]
	if !states {
		return time.Time{}
	}
	ttl := secondsOf(s.Data["ttl"])
	last, _ := s.Data["last_vault_rotation"].(string)
	if last != "" {
		at, first := c.rotated(w.key, last, ttl, s.Data["ttl"])
		s.Data["ttl"] = first
		return at
	}
	if ttl == 0 {
		return time.Time{}
	}
	// Tokens of OIDC, secrets of KV v1: good for as long.
	return now.Add(max(ttl*2/3-jitter(ttl/10), config.MinRefresh))
}

// rotated is when to read the password of a static role again: shortly after it
// is to be rotated, and then every few seconds, later less often, until it has been, since Vault
// begins a new ttl before the password is another. First is the ttl that was read
// first since the last rotation: one that counts down would make files another,
// and apps be told, at each read.
func (c *changes) rotated(key, last string, ttl time.Duration, said any) (at time.Time, first any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	was := c.rotations[key]
	if was != nil && was.last == last {
		said = was.ttl
		if !now.Before(was.due) {
			pause := was.backoff.next(true, 0)
			if now.Sub(was.due) < time.Minute {
				pause = min(pause, soon)
			}
			return now.Add(time.Second + pause), said
		}
	}
	if c.rotations == nil {
		c.rotations = make(map[string]*rotation)
	}
	c.rotations[key] = &rotation{last: last, ttl: said, due: now.Add(ttl)}
	return now.Add(ttl + time.Second + jitter(min(soon, ttl/10))), said
}
