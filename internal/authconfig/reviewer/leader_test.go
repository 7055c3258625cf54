package reviewer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// The effect may have been had although the answer says otherwise, or is lost.
func TestALostAnswerLeavesALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		p.untilNext()
		rotated := w.jwt
		w.after = func(call string) {
			if err := w.pod("vault"); err != nil {
				t.Fatalf("a pod's login is refused after %s: %v", call, err)
			}
		}
		// The write happens, its answer is lost, and Vault is away for a while.
		w.fail = func(call string) error {
			if call == "WriteConfig" && w.jwt == rotated {
				w.jwt = newest(w)
				return errors.New("504 timeout")
			}
			return failing("WriteConfig", "Probe")(call)
		}
		for range 5 {
			wantError(t, p.reconcile(), "Vault may hold either")
			time.Sleep(time.Minute)
		}
		w.fail = nil
		p.must()
		time.Sleep(time.Minute)
		p.must()
		if live := w.live(); len(live) != 1 {
			t.Errorf("at rest there are Secrets %v, want one", live)
		}
	})
}

// newest is the reviewer token that was made last.
func newest(w *world) (jwt string) {
	last := 0
	for j, tok := range w.tokens {
		var n int
		if fmt.Sscanf(j, "secret-jwt-%d", &n); tok.secret != "" && n > last {
			jwt, last = j, n
		}
	}
	return jwt
}

// A process may end after any call. Another one goes on from what was noted.
func TestAProcessThatEndsAnywhereLeavesALogin(t *testing.T) {
	type end struct{}
	crash := func(t *testing.T, at int) (calls int) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		p.untilNext()
		logsIn := func(call string) {
			if err := w.pod("vault"); err != nil {
				t.Fatalf("end after call %d: a pod's login is refused after %s: %v", at, call, err)
			}
		}
		w.after = func(call string) {
			logsIn(call)
			if calls++; calls == at {
				panic(end{})
			}
		}
		func() {
			defer func() {
				if r := recover(); r != nil && r != (end{}) {
					panic(r)
				}
			}()
			// The rotation, and the deletion of the Secret before.
			p.must()
			p.untilNext()
			p.must()
		}()
		w.after = logsIn
		next := w.start(settings(ShortLived), p.rec)
		for range 4 {
			next.must()
			next.untilNext()
		}
		next.must()
		time.Sleep(time.Minute)
		next.must()
		if live := w.live(); len(live) != 1 {
			t.Errorf("end after call %d: at rest there are Secrets %v, want one", at, live)
		}
		return calls
	}
	for at := 1; ; at++ {
		var reached int
		synctest.Test(t, func(t *testing.T) { reached = crash(t, at) })
		if reached < at {
			if at < 15 {
				t.Fatalf("only %d calls were tried", at)
			}
			return
		}
	}
}

func TestANewLeaderMintsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.start(settings(ShortLived), plan.Record{})
		old.must()
		first := w.jwt
		time.Sleep(5 * time.Minute)
		w.after = func(call string) {
			if err := w.pod("vault"); err != nil {
				t.Fatalf("a pod's login is refused after %s: %v", call, err)
			}
		}
		next := w.start(settings(ShortLived), old.rec)
		next.must()
		if w.jwt == first {
			t.Fatal("it goes on with a token that it could not write back")
		}
		// A host that Vault cannot reach: what the new leader minted carries the old
		// config too, were its own gone.
		next.r.Host = "https://elsewhere.test"
		w.after = nil
		wantError(t, next.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

// The first config that a new leader writes does not work: the one before is
// written back with the new token, since the old leader's cannot be known.
func TestANewLeaderWritesBackWithItsOwnToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.start(settings(ShortLived), plan.Record{})
		old.must()
		s := settings(ShortLived)
		s.Host = "https://elsewhere.test"
		next := w.start(s, old.rec)
		wantError(t, next.reconcile(), "proving the config", "the config before is back and works")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		if next.rec.Reviewer.SecretUID == old.rec.Reviewer.SecretUID || w.tokens[w.jwt].secret != next.rec.Reviewer.SecretUID {
			t.Errorf("the record does not name the Secret of the token that Vault has: %+v", next.rec.Reviewer)
		}
		time.Sleep(time.Minute)
		wantError(t, next.reconcile(), "this config is not tried again before")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

// A process that is told to end proves or undoes what it wrote.
func TestAnEndOfTheCallerLeavesNothingHalfDone(t *testing.T) {
	for _, host := range []string{goodHost, "https://elsewhere.test"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(settings(ShortLived), plan.Record{})
			p.must()
			p.untilNext()
			p.r.Host = host
			target, err := p.r.Target(t.Context(), p.rec)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			w.after = func(call string) {
				if call == "WriteConfig" {
					cancel()
				}
			}
			before := w.jwt
			err = p.r.Write(ctx, w.config, target.Config, &p.rec)
			if works := host == goodHost; (err == nil) != works || (w.jwt != before) != works {
				t.Errorf("%s: replaced %t, %v", host, w.jwt != before, err)
			}
			if p.rec.Reviewer.SecretUID != w.tokens[w.jwt].secret {
				t.Errorf("%s: the record does not name the Secret of the token that Vault has", host)
			}
			if err := w.pod("vault"); err != nil {
				t.Error(err)
			}
		})
	}
}
