package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/cluster/faultproxy"
	"github.com/latchkey-dev/latchkey/test/harness"
)

var soak = flag.Duration("soak", 30*time.Second, "how long the tests called Soak last")

// logins are logins without a pause at a mount, with one token of an app's.
type logins struct {
	stop context.CancelFunc
	done chan struct{}

	// When done is closed:
	tried   int
	refused []string
	slowest time.Duration
}

// keepLoggingIn logs in twenty times a second until it is ended. The role makes
// batch tokens, which cost Vault nothing.
func keepLoggingIn(t *testing.T, a *harness.Authconfig, role, jwt string) *logins {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &logins{stop: cancel, done: make(chan struct{})}
	t.Cleanup(func() { cancel(); <-l.done })
	requests := context.WithoutCancel(ctx) // none is broken off by the end
	go func() {
		defer close(l.done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			start := time.Now()
			_, err := a.Vault.Login(requests, a.Mount, role, jwt)
			l.tried++
			l.slowest = max(l.slowest, time.Since(start))
			if err != nil {
				l.refused = append(l.refused, fmt.Sprintf("%s: %v", start.Format(time.TimeOnly), err))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return l
}

// end stops and says of each refused login that there was one.
func (l *logins) end(t *testing.T) {
	t.Helper()
	l.stop()
	<-l.done
	t.Logf("%d logins, %d refused, the slowest took %s", l.tried, len(l.refused), l.slowest.Round(time.Millisecond))
	if l.tried == 0 || len(l.refused) > 0 {
		t.Errorf("of %d logins these were refused:\n%s", l.tried, strings.Join(l.refused, "\n"))
	}
}

// continuous has an authconfig whose role app makes batch tokens.
func continuous(t *testing.T, values string) (*harness.Authconfig, *logins) {
	t.Helper()
	s := suite.Space(t)
	return continuousOn(t, s, s.OwnVault(false), values)
}

// continuousOn is continuous with a Vault that is there already.
func continuousOn(t *testing.T, s *harness.Space, v *harness.Vault, values string) (*harness.Authconfig, *logins) {
	t.Helper()
	s.ServiceAccount("app")
	s.SetRoles(map[string]string{"app": s.RoleFor("app", batch)})
	a := s.Authconfig(v, values)
	a.WaitLogin("app", "app", harness.Audience)
	jwt, err := a.TryToken("app", harness.Audience, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a, keepLoggingIn(t, a, "app", jwt)
}

// batch has a role make tokens that Vault does not store.
var batch = map[string]any{"token_type": "batch"}

// With two replicas the leader goes again and again, told to or killed. Each next
// one makes a reviewer's token of its own, proves it and gives it to Vault, and no
// login is refused, at no moment. The tokens before the last two are dead.
func TestKilledLeadersLeaveNoLoginRefused(t *testing.T) {
	t.Parallel()
	a, logins := continuous(t, "replicas: 2")
	twins := newTwins(a)
	twins.look()
	leaders := []struct {
		end    string
		signal syscall.Signal
	}{{"killed", syscall.SIGKILL}, {"told to end", syscall.SIGTERM}, {"told to end", syscall.SIGTERM}}
	for _, l := range leaders {
		leader, before, began := a.Leader(), twins.seen(), time.Now()
		a.Signal(leader, "authconfig", l.signal)
		poll(t, "the next leader's token", func() bool { twins.look(); return twins.seen() > before })
		t.Logf("%s after %s was %s there was another token, of %s", time.Since(began).Round(100*time.Millisecond), leader.Name, l.end, a.Leader().Name)
	}
	logins.end(t)
	want := 1 + len(leaders)
	twins.waitDead()
	writes, revoked := 0, 0
	for _, e := range a.Vault.Audit() {
		switch e.String() {
		case "update auth/" + a.Mount + "/config":
			writes++
		case "update auth/token/revoke-self":
			if e.Role == harness.AuthconfigName {
				revoked++
			}
		}
	}
	// A machine that is very busy may lose a Lease more often.
	if writes < want || writes > want+2 {
		t.Errorf("Vault's config was written %d times, want once for each of %d leaders", writes, want)
	}
	if revoked < want-2 {
		t.Errorf("%d leaders revoked their token, want the %d that were told to end", revoked, want-2)
	}
}

// A reviewer's token is replaced every few seconds, and no login is refused, at no
// moment; those that were replaced die.
func TestRotationsLeaveNoLoginRefused(t *testing.T) {
	t.Parallel()
	a, logins := continuous(t, "reviewer: {life: 10m, rotateAfter: 3s}")
	twins := newTwins(a)
	const tokens = 6
	poll(t, fmt.Sprintf("%d tokens", tokens), func() bool { twins.look(); return twins.seen() >= tokens })
	logins.end(t)
	twins.waitDead()
}

// The API server's shortest token life passes, and no login is refused: `make soak`.
// Within the suite it ends sooner.
func TestSoakReviewerTokens(t *testing.T) {
	t.Parallel()
	a, logins := continuous(t, "reviewer: {life: 10m}")
	began := time.Now()
	twins := newTwins(a)
	twins.look()
	first := a.Record().Reviewer
	if life := first.Expires.Sub(first.Issued); life != 10*time.Minute {
		t.Errorf("the reviewer's token lives %s, want 10m", life)
	}
	every(t, *soak, time.Second, func() { twins.look() })
	logins.end(t)
	t.Logf("in %s there were %d tokens of 10m each; the first one ended %s ago", time.Since(began).Round(time.Second), twins.seen(), time.Since(first.Expires).Round(time.Second))
	if want := 1 + int(*soak/(6*time.Minute)); twins.seen() < want {
		t.Errorf("there were %d tokens, want %d at least", twins.seen(), want)
	}
	twins.waitDead()
	if twins.alive() == 0 {
		t.Error("none of the tokens is good")
	}
}

// Vault is away for authconfig, for minutes in `make soak`. Pods log in all the
// while, nothing in Vault changes, and what was asked for meanwhile is there soon
// after.
func TestSoakVaultAway(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	proxy := proxyTo(t, cluster.NodeIP+":0", v.Root.Address(), suite.CA())
	a, logins := continuousOn(t, s, v, "vault: {address: 'https://"+proxy.Address()+"'}")

	if err := proxy.Set(faultproxy.Mode{Fault: "refuse"}); err != nil {
		t.Fatal(err)
	}
	s.SetRoles(rolesNamed(s.RoleFor("app", batch), "app", "later"))
	away := *soak / 4
	every(t, away, time.Second, func() {
		if got := a.OwnRoles(); !slices.Equal(got, []string{"app"}) {
			t.Fatalf("while Vault is away the roles are %q", got)
		}
	})
	t.Log(a.WaitSaid("connection refused"))
	if err := proxy.Set(faultproxy.Mode{}); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	poll(t, "the new role", func() bool { return slices.Equal(a.OwnRoles(), []string{"app", "later"}) })
	t.Logf("Vault was away for %s, and %s afterwards the roles were those of the ConfigMap", away, time.Since(back).Round(time.Second))
	logins.end(t)
}

// An authconfig that has nothing to do reads each path of Vault once in each
// round, and writes nothing: `make soak`.
func TestSoakIdleAuthconfig(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	v := s.OwnVault(false)
	s.ServiceAccount("app")
	roles := map[string]string{}
	for i := range 10 {
		roles[fmt.Sprint("app-", i)] = s.RoleFor("app", nil)
	}
	s.SetRoles(roles)
	resync := max(*soak/10, 5*time.Second)
	a := s.Authconfig(v, "resync: "+resync.String())
	a.WaitLogin("app-9", "app", harness.Audience)
	// What it does after the last role, such as to note it, is not idling.
	every(t, 2*resync, resync, func() {})

	before := v.Audit()
	every(t, *soak, *soak/10, func() {})
	entries := v.Audit()[len(before):]
	reads := map[string]int{}
	for _, e := range entries {
		switch {
		case e.Display == "root" || e.Path == "auth/"+harness.LoginMount+"/login" || e.Path == "auth/token/revoke-self":
			// The tests' own; and a login of its own before its token ends.
		case e.Operation == "read" || e.Operation == "list":
			reads[e.String()]++
		default:
			t.Errorf("while it was idle authconfig asked Vault for %s at %s", e, e.Time.Format(time.TimeOnly))
		}
	}
	// Rounds are late by some jitter, never early; both ends may see one more.
	rounds := int(*soak/resync) + 1
	t.Logf("in %s with a round every %s: %v", *soak, resync, reads)
	if len(reads) == 0 {
		t.Error("it has read nothing, so that it would not see what others change")
	}
	for path, n := range reads {
		if n > rounds {
			t.Errorf("%s %d times in %d rounds", path, n, rounds)
		}
	}
}

// every calls f again and again for a while.
func every(t *testing.T, while, period time.Duration, f func()) {
	t.Helper()
	end := time.After(while)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		f()
		select {
		case <-end:
			return
		case <-t.Context().Done():
			return
		case <-tick.C:
		}
	}
}
