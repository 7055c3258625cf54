package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render"
)

// answer is what Vault gave and asking again would make anew: all that has a
// lease, and all that a write brought. It is kept in the private part of the
// volume, so that an agent that is started again goes on with it.
type answer struct {
	// What templates see, as it was when the answer was given: a renewal does
	// not change a file.
	RequestID     string
	LeaseID       string
	LeaseDuration int // seconds
	Renewable     bool
	Data          map[string]any
	Warnings      []string

	// Token names the token that took it (session.id): a lease ends with it.
	Token string
	// TTL is the longest time that the lease was granted at once.
	TTL time.Duration
	// End is when it is no good any more; zero is not known.
	End time.Time
	// Last means that the lease is not renewed any more.
	Last bool
	// Renew is when to renew the lease, Again when to ask for another answer;
	// zero is never.
	Renew, Again time.Time
}

// newAnswer is what s gave now to the token of that name.
func newAnswer(s *api.Secret, token string) *answer {
	return &answer{
		RequestID: s.RequestID, LeaseID: s.LeaseID, LeaseDuration: s.LeaseDuration, Renewable: s.Renewable, Data: s.Data, Warnings: s.Warnings,
		Token: token,
	}
}

func (w *answer) secret() *render.Secret {
	return render.NewSecret(render.View{
		RequestID: w.RequestID, LeaseID: w.LeaseID, LeaseDuration: w.LeaseDuration, Renewable: w.Renewable, Data: w.Data, Warnings: w.Warnings,
	}, false)
}

// renewable reports whether its lease can be renewed, as far as is known.
func (w *answer) renewable() bool { return w.LeaseID != "" && w.Renewable && !w.Last && w.TTL > 0 }

// next is when something is to be done about it; zero is never.
func (w *answer) next() time.Time {
	if w.renewable() && (w.Again.IsZero() || w.Renew.Before(w.Again)) {
		return w.Renew
	}
	return w.Again
}

// granted says what a grant of ttl means for the lease, which Vault gave no earlier
// than it was asked: what it takes to answer is not part of the life. A grant that is shorter
// than the longest one is the lease's last. Final is the end of a token that has
// no more renewals: a lease that lasts as long is replaced with it.
func (w *answer) granted(asked time.Time, ttl time.Duration, final time.Time) {
	// Vault counts in whole seconds.
	w.Last = w.Last || ttl < w.TTL-2*time.Second
	w.TTL = max(w.TTL, ttl)
	if w.TTL == 0 {
		return // it has no end of its own
	}
	w.End = asked.Add(ttl)
	w.Renew = asked.Add(renewAfter(ttl))
	again := w.End.Add(-lead(w.TTL))
	if !w.renewable() {
		w.Renew = time.Time{}
		again = again.Add(-jitter(lead(w.TTL) / 2))
		if !final.IsZero() && w.End.After(final.Add(-3*time.Second)) {
			again = time.Time{}
		}
	}
	w.Again = again
}

// lead is how long before its end something is replaced that lives for ttl.
func lead(ttl time.Duration) time.Duration { return min(5*time.Minute, ttl/3) }

// renewAfter is when to renew what was granted for ttl. Its jitter keeps pods
// that started together apart.
func renewAfter(ttl time.Duration) time.Duration {
	interval := min(ttl*2/3, maxRenewInterval)
	return interval - jitter(interval/10)
}

// key names what is asked of Vault: the same for all that ask the same, another
// for who logs in otherwise, and a name for a private file.
func (a *Agent) key(parts ...string) string {
	h := sha256.New()
	h.Write([]byte(a.fingerprint()))
	for _, p := range parts {
		fmt.Fprintf(h, "\x00%s", p)
	}
	return keptAnswer + hex.EncodeToString(h.Sum(nil))
}

// answers are those that are kept, by their keys.
type answers struct {
	mu sync.Mutex
	// unkept could not be kept in the volume, which may be full: in this run
	// they are as good as the others.
	unkept map[string]*answer
	// fresh are the times of those that this run has taken or whose lease it has
	// renewed. All others are of an earlier run, and their leases may be gone. What
	// lies in the volume is by the clock on the wall, which may be set back.
	fresh map[string]times
}

// times are those of an answer.
type times struct{ end, renew, again time.Time }

// isFresh reports whether this run has heard of the answer.
func (k *answers) isFresh(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, fresh := k.fresh[key]
	return fresh
}

// keep keeps an answer for this run and, unless it is an error, for later ones.
func (a *Agent) keep(key string, now *answer) error {
	data, err := json.Marshal(now)
	if err == nil {
		err = a.volume.WritePrivate(key, data)
	}
	k := &a.answers
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fresh == nil {
		k.unkept, k.fresh = make(map[string]*answer), make(map[string]times)
	}
	k.fresh[key] = times{now.End, now.Renew, now.Again}
	delete(k.unkept, key)
	if err != nil {
		k.unkept[key] = now
	}
	return err
}

// kept returns what is kept under a key, or nil.
func (a *Agent) kept(key string) *answer {
	a.answers.mu.Lock()
	now := a.answers.unkept[key]
	fresh, isFresh := a.answers.fresh[key]
	a.answers.mu.Unlock()
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
	var was answer
	if dec.Decode(&was) != nil || len(was.Data) == 0 {
		return nil
	}
	if isFresh {
		was.End, was.Renew, was.Again = fresh.end, fresh.renew, fresh.again
	}
	return &was
}

// forget drops what is kept under a key.
func (a *Agent) forget(key string) {
	a.answers.mu.Lock()
	delete(a.answers.unkept, key)
	delete(a.answers.fresh, key)
	a.answers.mu.Unlock()
	if err := a.volume.RemovePrivate(key); err != nil {
		a.log.Warn("removing an answer that nobody needs", "reason", err)
	}
}

// sweep drops the kept answers that no entry asks for any more. Until every
// entry was rendered once, nobody knows.
func (a *Agent) sweep() {
	if slices.ContainsFunc(a.entries, func(e *entry) bool { return e.reads == nil }) {
		return
	}
	names, err := a.volume.Private(keptAnswer)
	if err != nil {
		a.log.Warn("looking for answers that nobody needs", "reason", err)
	}
	for _, key := range names {
		if !slices.ContainsFunc(a.entries, func(e *entry) bool { return slices.Contains(e.reads, key) || slices.Contains(e.tried, key) }) {
			a.forget(key)
		}
	}
}
