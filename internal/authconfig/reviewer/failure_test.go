package reviewer

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

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
