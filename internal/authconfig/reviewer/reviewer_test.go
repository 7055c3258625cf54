package reviewer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

func TestEachModeLetsPodsLogIn(t *testing.T) {
	for _, mode := range Modes {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.inCluster = mode == Local
				if mode == LongLived {
					w.secrets["reviewer-token"] = cluster.Secret{Name: "reviewer-token", UID: "u", Version: "1",
						Type: "kubernetes.io/service-account-token", Account: "latchkey-reviewer"}
					w.stored["reviewer-token"] = w.newToken(account, "", "u", 1e6*time.Hour)
				}
				p := w.start(settings(mode), plan.Record{})
				p.must()
				if err := w.pod(p.r.Audience); err != nil {
					t.Errorf("a pod's login is refused: %v", err)
				}
				if got := w.jwt != ""; got != (mode == LongLived || mode == ShortLived) {
					t.Errorf("Vault holds a reviewer token: %t", got)
				}
				writes := w.writes
				for range 3 {
					p.must()
				}
				if w.writes != writes {
					t.Errorf("the config was written %d times more though nothing changed", w.writes-writes)
				}
			})
		})
	}
}

func TestRotationsRefuseNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		w.after = func(call string) {
			if err := w.pod("vault"); err != nil {
				t.Fatalf("a pod's login is refused after %s: %v", call, err)
			}
		}
		begun, seen := time.Now(), map[string]bool{w.jwt: true}
		for len(seen) <= 50 {
			before := w.jwt
			p.untilNext()
			p.must()
			if w.jwt == before {
				if live := w.live(); len(live) != 1 {
					t.Fatalf("at rest there are Secrets %v, want one", live)
				}
				continue
			}
			if !w.honours(before, "") {
				t.Fatalf("the token before is dead at once")
			}
			seen[w.jwt] = true
		}
		for jwt := range seen {
			if n := w.tokens[jwt]; n.audience != "" || n.account != account || n.secret == "" {
				t.Fatalf("a reviewer token is %+v", n)
			}
		}
		if took := time.Since(begun); took < 50*27*time.Minute || took > 50*33*time.Minute {
			t.Errorf("50 rotations of tokens that live an hour took %s", took)
		}
	})
}

// A token is of no use any more, a grace after the next one is proven.
func TestTheTokenBeforeIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := settings(ShortLived)
		s.Life = 10 * time.Minute
		p := w.start(s, plan.Record{})
		p.must()
		before := w.jwt
		p.untilNext()
		p.must()
		time.Sleep(59 * time.Second)
		p.must()
		if !w.honours(before, "") {
			t.Error("the token before is dead before its grace is over")
		}
		time.Sleep(time.Second)
		p.must()
		if w.honours(before, "") {
			t.Error("the token before still works")
		}
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestAnythingThatFailsLeavesALogin(t *testing.T) {
	for _, test := range []struct {
		name string
		fail func(string) error
		host string
		says []string
		// broken says that logins are refused afterwards.
		broken bool
	}{
		{name: "making the Secret", fail: failing("Secret"), says: []string{"making a Secret for a reviewer token", "nothing in Vault has changed"}},
		{name: "the token", fail: failing("Token"), says: []string{"requesting a reviewer token", "nothing in Vault has changed"}},
		{name: "a client's token", fail: failing("Token of a client"), says: []string{"requesting a token to log in with", "nothing in Vault has changed"}},
		{name: "the review", fail: failing("Review"), says: []string{"reviewing a token with the new reviewer token", "nothing in Vault has changed"}},
		{name: "the write", fail: once("WriteConfig"), says: []string{"writing the config", "the config before is back and works"}},
		{name: "every write", fail: failing("WriteConfig"), says: []string{"writing the config", "writing back the config before failed too, so Vault may hold either"}},
		{name: "the proof", host: "https://elsewhere.test", says: []string{"proving the config by a login: 403", "the config before is back and works"}},
		{name: "every proof", fail: failing("Probe"), says: []string{"proving the config by a login", "the config before is back, but:"}},
		{name: "the proof and the write back", host: "https://elsewhere.test", fail: second("WriteConfig"), broken: true,
			says: []string{"proving the config by a login: 403", "writing back the config before failed too, so Vault may hold either"}},
		{name: "deleting the Secret of a token that is not good", fail: failing("Review", "DeleteSecret"), says: []string{"reviewing a token", "deleting Secret latchkey-reviewer-b of a token that is not used"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.start(settings(ShortLived), plan.Record{})
				p.must()
				p.untilNext()
				if test.host != "" {
					p.r.Host = test.host
				}
				jwt, rec := w.jwt, p.rec.Clone()
				w.fail = test.fail
				wantError(t, p.reconcile(), test.says...)
				w.fail = nil
				if err := w.pod("vault"); (err != nil) != test.broken {
					t.Errorf("a pod's login: %v", err)
				}
				if !test.broken && (w.jwt != jwt || !p.rec.Equal(&rec)) {
					t.Errorf("Vault or the record have changed: %+v", p.rec.Reviewer)
				}
				p.r.Host = goodHost
				p.must()
				if err := w.pod("vault"); err != nil {
					t.Errorf("it does not heal: %v", err)
				}
				if w.jwt == jwt {
					t.Error("the token is not replaced afterwards")
				}
				time.Sleep(time.Minute)
				p.must()
				if live := w.live(); len(live) != 1 {
					t.Errorf("at rest there are Secrets %v, want one", live)
				}
			})
		})
	}
}

// once has the first call of a name fail, second the second one and all after it.
func once(name string) func(string) error { return nth(name, func(n int) bool { return n == 1 }) }
func second(name string) func(string) error {
	return nth(name, func(n int) bool { return n > 1 })
}

func nth(name string, which func(int) bool) func(string) error {
	calls := 0
	return func(call string) error {
		if call == name {
			if calls++; which(calls) {
				return errors.New("503 " + call + " is down")
			}
		}
		return nil
	}
}

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

func TestTheKillSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		for round := range 4 {
			p.must()
			stolen := w.jwt
			delete(w.secrets, p.rec.Reviewer.Secret)
			if w.honours(stolen, "") {
				t.Fatal("the token works without its Secret")
			}
			target, err := p.r.Target(t.Context(), p.rec)
			if err != nil || !strings.Contains(target.NewCredential, "is gone") {
				t.Fatalf("it is not seen: %q, %v", target.NewCredential, err)
			}
			p.must()
			if err := w.pod("vault"); err != nil {
				t.Fatalf("round %d: a pod's login is refused: %v", round, err)
			}
			if w.honours(stolen, "") {
				t.Fatal("the token that was killed lives again")
			}
		}
	})
}

// A dead token is not written back.
func TestTheKillSwitchWhileVaultCannotReachTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		delete(w.secrets, p.rec.Reviewer.Secret)
		w.fail = failing("Probe")
		wantError(t, p.reconcile(), "proving the config by a login", "nothing else to write back")
		if err := w.pod("vault"); err != nil {
			t.Errorf("a pod's login is refused once Vault can again: %v", err)
		}
		w.fail = nil
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

// The reviewer's account was deleted and made anew: its tokens are dead, and not
// written back, though their Secret is there.
func TestADoubtfulTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		delete(w.tokens, w.jwt)
		p.must()
		if w.pod("vault") == nil {
			t.Fatal("the token still works")
		}
		p.r.Doubt("its ServiceAccount was deleted")
		w.fail = failing("Probe")
		wantError(t, p.reconcile(), "proving the config by a login", "nothing else to write back")
		w.fail = nil
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		writes := w.writes
		p.must()
		if w.writes != writes {
			t.Error("the doubt stays")
		}
	})
}

// A Secret made anew by hand under the name holds no token.
func TestASecretMadeAnewIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		name := p.rec.Reviewer.Secret
		w.secrets[name] = cluster.Secret{Name: name, UID: "another"}
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
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

// Vault was restored from a snapshot: it has a token that is dead, and its config
// looks as it should.
func TestARestoredVaultGetsATokenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		config, mark, jwt := w.config, w.mark, w.jwt
		for range 2 {
			p.untilNext()
			p.must()
		}
		w.config, w.mark, w.jwt = config, mark, jwt
		if w.pod("vault") == nil {
			t.Fatal("the token of the snapshot is good")
		}
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		writes := w.writes
		p.must()
		if w.writes != writes {
			t.Error("the config is written again and again")
		}
		// Somebody writes the config anew with a token of their own.
		w.mark, w.jwt = "", w.newToken("shop/app", "", "", time.Hour)
		p.must()
		if w.tokens[w.jwt].account != account {
			t.Error("Vault has the token of somebody else")
		}
	})
}

// A config that does not work is not tried every minute, which would cost pods
// their logins each time. Tokens are replaced all the same.
func TestAConfigThatDoesNotWorkIsTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := settings(ShortLived)
		s.Life = 10 * time.Minute
		p := w.start(s, plan.Record{})
		p.must()
		p.r.Host = "https://elsewhere.test"
		seen, tried, writes := map[string]bool{}, 0, 0
		w.after = func(call string) {
			if call == "WriteConfig" {
				if writes++; w.config["kubernetes_host"] != goodHost {
					tried++
				}
			}
		}
		for range 60 {
			wantError(t, p.reconcile(), "proving the config by a login: 403")
			seen[w.jwt] = true
			if err := w.pod("vault"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if tried < 5 || tried > 7 {
			t.Errorf("it was tried %d times in an hour, want once in ten minutes", tried)
		}
		if len(seen) < 9 {
			t.Errorf("there were %d tokens of ten minutes in an hour", len(seen))
		}
		// What is right is written at once, and so is another try.
		p.r.Host = goodHost
		p.must()
		p.r.Host, w.after = "https://elsewhere.test", nil
		wantError(t, p.reconcile(), "the config before is back and works")
		w.config = desired.CanonicalConfig(desired.Kubernetes, map[string]any{"kubernetes_host": "https://somebodys.test"})
		p.r.Host = goodHost
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

// A process that does not stay leaves a token that is good alone.
func TestOneRunMintsOnlyWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := settings(ShortLived)
		s.Hold = false
		p := w.start(s, plan.Record{})
		p.must()
		first := w.jwt
		time.Sleep(29 * time.Minute)
		p = w.start(s, p.rec)
		p.must()
		if w.jwt != first {
			t.Error("a token that is not half of its life old is replaced")
		}
		time.Sleep(2 * time.Minute)
		p = w.start(s, p.rec)
		p.must()
		if w.jwt == first {
			t.Error("a token that is past half of its life is not replaced")
		}
	})
}

func TestAShorterLifeThanAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.granted = 10 * time.Minute
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		if got := time.Until(p.rec.Reviewer.Expires); got != 10*time.Minute {
			t.Errorf("the record says that the token ends in %s", got)
		}
		for range 10 {
			p.untilNext()
			p.must()
			if err := w.pod("vault"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRotateAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := settings(ShortLived)
		s.RotateAfter = 20 * time.Second
		p := w.start(s, plan.Record{})
		p.must()
		// Faster than Secrets are cleaned up: still no more than two tokens are good.
		for range 5 {
			before := w.jwt
			time.Sleep(20 * time.Second)
			p.must()
			if w.jwt == before {
				t.Error("the token is not replaced")
			}
			good := 0
			for jwt, tok := range w.tokens {
				if tok.secret != "" && w.honours(jwt, "") {
					good++
				}
			}
			if good > 2 || !w.honours(w.jwt, "") {
				t.Errorf("%d reviewer tokens are good", good)
			}
		}
		p.r.RotateAfter = 2 * time.Hour // longer than a token lives
		time.Sleep(20 * time.Second)
		p.must()
		time.Sleep(time.Minute)
		p.must()
		if got := time.Until(p.r.Next(p.rec)); got > 35*time.Minute {
			t.Errorf("the next token is due in %s", got)
		}
	})
}

// While no token can be had the old one serves to its end, and what is recorded
// says when that is.
func TestTheAPIServerGivesNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		ends := p.rec.Reviewer.Expires
		p.untilNext()
		w.fail = failing("Token")
		for time.Until(ends) > time.Minute {
			wantError(t, p.reconcile(), "requesting a reviewer token")
			if err := w.pod("vault"); err != nil {
				t.Fatalf("%s before its end: %v", time.Until(ends), err)
			}
			if !p.rec.Reviewer.Expires.Equal(ends) {
				t.Fatal("the record tells another end")
			}
			if next := p.r.Next(p.rec); !next.After(time.Now()) {
				t.Fatalf("the next try is due at %s, at once and again and again", next)
			}
			time.Sleep(time.Minute)
		}
		w.fail = nil
		p.must()
		time.Sleep(2 * time.Minute)
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		// And past the end: logins are refused, and heal.
		w.fail = failing("Token")
		time.Sleep(time.Hour)
		wantError(t, p.reconcile(), "requesting a reviewer token")
		if w.pod("vault") == nil {
			t.Fatal("the token works past its end")
		}
		w.fail = nil
		// Nor is it written back.
		p.r.Host = "https://elsewhere.test"
		wantError(t, p.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		p.r.Host = goodHost
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestClocksThatJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		jump := time.Duration(0)
		p.r.wall = func() time.Time { return time.Now().UTC().Round(0).Add(jump) }
		p.must()
		rotates := func(when string, want bool) {
			t.Helper()
			before := w.jwt
			p.must()
			if got := w.jwt != before; got != want {
				t.Errorf("%s: replaced %t, want %t", when, got, want)
			}
			if err := w.pod("vault"); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		jump = 3 * time.Hour
		rotates("the clock goes forward, as after a machine's sleep", true)
		rotates("that is no reason to go on replacing", false)
		time.Sleep(2 * time.Minute)
		rotates("later", false)
		jump = -5 * time.Hour
		rotates("the clock is set back", false)
		time.Sleep(34 * time.Minute)
		rotates("half of the life has passed all the same", true)
		rotates("after that", false)
	})
}

func TestAFirstConfigThatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := settings(ShortLived)
		s.Host = "https://elsewhere.test"
		p := w.start(s, plan.Record{})
		wantError(t, p.reconcile(), "proving the config by a login", "there was no config to write back")
		for range 10 {
			wantError(t, p.reconcile(), "proving the config by a login", "nothing else to write back")
		}
		p.r.Host = goodHost
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		p.must()
		if live := w.live(); len(live) != 1 {
			t.Errorf("at rest there are Secrets %v, want one", live)
		}
	})
}

func TestWhatIsLateIsNoFailure(t *testing.T) {
	for name, says := range map[string]string{"Probe": `400 invalid role name "latchkey-probe"`, "Review": "403 tokenreviews is forbidden"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(settings(ShortLived), plan.Record{})
			calls := 0
			w.fail = func(call string) error {
				if call == name {
					if calls++; calls <= 3 {
						return errors.New(says)
					}
				}
				return nil
			}
			p.must()
			if w.writes != 1 {
				t.Errorf("%s: the config was written %d times", name, w.writes)
			}
		})
	}
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

func TestTheCAFollowsTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		w.ca = block("CERTIFICATE", "two")
		if w.pod("vault") == nil {
			t.Fatal("Vault takes a CA that it does not have")
		}
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestLongLived(t *testing.T) {
	const secretType = "kubernetes.io/service-account-token"
	for _, test := range []struct {
		name   string
		secret *cluster.Secret
		token  bool
		says   string
	}{
		{name: "no Secret", says: "needs Secret reviewer-token, and there is none: make one of type kubernetes.io/service-account-token"},
		{name: "another type", secret: &cluster.Secret{Type: "Opaque"}, token: true, says: "is of type Opaque and must be of kubernetes.io/service-account-token"},
		{name: "another account", secret: &cluster.Secret{Type: secretType, Account: "app"}, token: true, says: `is for ServiceAccount "app"`},
		{name: "no token", secret: &cluster.Secret{Type: secretType, Account: "latchkey-reviewer"}, says: "holds no token yet"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.secret != nil {
				test.secret.Name, test.secret.UID = "reviewer-token", "u"
				w.secrets["reviewer-token"] = *test.secret
			}
			if test.token {
				w.stored["reviewer-token"] = w.newToken(account, "", "u", time.Hour)
			}
			wantError(t, w.start(settings(LongLived), plan.Record{}).reconcile(), test.says, "nothing in Vault has changed")
			if w.writes != 0 {
				t.Error("the config is written")
			}
		})
	}
	t.Run("another token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			put := func(uid, version string) {
				w.secrets["reviewer-token"] = cluster.Secret{Name: "reviewer-token", UID: uid, Version: version, Type: secretType, Account: "latchkey-reviewer"}
				w.stored["reviewer-token"] = w.newToken(account, "", uid, 1e6*time.Hour)
			}
			put("u1", "1")
			p := w.start(settings(LongLived), plan.Record{})
			p.must()
			for i, uid := range []string{"u1", "u2"} {
				put(uid, fmt.Sprint(i+2))
				p.must()
				if w.jwt != w.stored["reviewer-token"] {
					t.Errorf("Vault has not the token of Secret %s, version %d", uid, i+2)
				}
			}
			// A new leader has nothing to mint, and nothing to do.
			writes := w.writes
			w.start(settings(LongLived), p.rec).must()
			if w.writes != writes {
				t.Error("a new leader writes the config though nothing changed")
			}
			// The one before can be written back.
			p.r.Host = "https://elsewhere.test"
			wantError(t, p.reconcile(), "the config before is back and works")
			if err := w.pod("vault"); err != nil {
				t.Error(err)
			}
			w.secrets["other"] = cluster.Secret{Name: "other", UID: "u3", Type: secretType, Account: "latchkey-reviewer"}
			w.stored["other"] = w.newToken(account, "", "u3", 1e6*time.Hour)
			other := settings(LongLived)
			other.Secret = "other"
			chosen := w.start(other, p.rec)
			chosen.must()
			if w.jwt != w.stored["other"] {
				t.Error("Vault has not the token of the Secret that is chosen now")
			}
			time.Sleep(time.Hour)
			chosen.must()
			if _, ok := w.secrets["reviewer-token"]; !ok {
				t.Error("a Secret of the operator's is deleted")
			}
			p.r.Host = goodHost
			delete(w.secrets, "reviewer-token")
			wantError(t, p.reconcile(), "there is none")
		})
	})
}

// Vault in another cluster has no token of its own, and what it had is not to be
// known again.
func TestLocalWhereVaultIsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		local := w.start(settings(Local), p.rec)
		wantError(t, local.reconcile(), "proving the config by a login", "its reviewer token cannot be read from Vault")
		if got := local.rec.Reviewer.Mode; got != ShortLived {
			t.Errorf("the record says that mode %q is proven", got)
		}
		wantError(t, local.reconcile(), "proving the config by a login")
		// Set back.
		back := w.start(settings(ShortLived), local.rec)
		back.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestFromLocalToAHostThatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inCluster = true
		p := w.start(settings(Local), plan.Record{})
		p.must()
		p.r.Host = "https://elsewhere.test"
		wantError(t, p.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		s := settings(ShortLived)
		s.Host = "https://elsewhere.test"
		p = w.start(s, p.rec)
		wantError(t, p.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil || w.jwt != "" {
			t.Errorf("a pod's login: %v; Vault holds a token: %t", err, w.jwt != "")
		}
		if live := w.live(); len(live) != 0 {
			t.Errorf("Secrets %v are left of a token that is not used", live)
		}
	})
}

func TestAnotherModeEndsTheShortLivedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		before := w.jwt
		w.inCluster = true
		p = w.start(settings(Local), p.rec)
		p.must()
		p.untilNext()
		p.must()
		if w.honours(before, "") {
			t.Error("the token of the mode before still works")
		}
		if next := p.r.Next(p.rec); !next.IsZero() {
			t.Errorf("there is something to do at %s", next)
		}
	})
}

// In another mode there may be no leave to delete the Secret: it is said once.
func TestASecretThatMayNotBeDeletedAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		w.inCluster = true
		p = w.start(settings(Local), p.rec)
		p.must()
		p.untilNext()
		w.fail = failing("DeleteSecret")
		wantError(t, p.reconcile(), "delete it by hand")
		p.must()
	})
}

func TestClientRolesThatCannotWork(t *testing.T) {
	role := func(audience, selector string) desired.Role {
		return desired.Role{Source: "vault-auth/roles", Key: "key", Fields: desired.Fields{
			"audience": audience, "bound_service_account_namespace_selector": selector}}
	}
	roles := desired.Roles{Roles: map[string]desired.Role{
		"good": role("", ""), "named": role(issuer, ""), "narrow": role("vault", ""), "selects": role("", `{"matchLabels":{"a":"b"}}`)}}
	w := newWorld(t)
	got, err := w.start(settings(Client), plan.Record{}).r.Screen(t.Context(), roles)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Roles) != 2 || got.Roles["good"].Fields == nil || got.Roles["named"].Fields == nil {
		t.Errorf("roles that are kept: %v", got.Roles)
	}
	if len(got.Problems) != 2 || got.Problems[0].Role != "narrow" || !strings.Contains(got.Problems[0].Text, `audience: "vault" is not the API server's own ("https://issuer.test")`) ||
		got.Problems[1].Role != "selects" || !strings.HasPrefix(got.Problems[1].Text, "bound_service_account_namespace_selector: ") {
		t.Errorf("problems: %v", got.Problems)
	}
	if !got.Untouched("narrow", "vault-auth/roles") {
		t.Error("the role would be deleted")
	}
	for _, mode := range []string{Local, LongLived, ShortLived} {
		if got, err := w.start(settings(mode), plan.Record{}).r.Screen(t.Context(), roles); err != nil || !reflect.DeepEqual(got, roles) {
			t.Errorf("mode %s: %v, %v", mode, got, err)
		}
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	_, err := newWorld(t).start(Settings{Mode: JWT}, plan.Record{}).r.Target(t.Context(), plan.Record{})
	wantError(t, err, "reviewer mode jwt needs an audience")
	_, err = newWorld(t).start(Settings{Mode: "shortlived"}, plan.Record{}).r.Target(t.Context(), plan.Record{})
	wantError(t, err, `reviewer mode "shortlived" is unknown`, "local, client, long-lived, short-lived, jwt")
}
