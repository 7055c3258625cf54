package reviewer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

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
