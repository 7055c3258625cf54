package authconfig

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
)

func configMap(name string) change {
	return change{watched: watched{configMaps, "vault-auth", name}, uid: "1"}
}

// An authconfig with nothing to do reads Vault once on each resync, and writes
// nothing but the reviewer token that is due.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		synctest.Wait()
		if n := r.count("Observe"); n != 1 {
			t.Fatalf("%d looks at the start", n)
		}
		if r.count(writes...) == 0 || !r.has("shop") || !r.has(reviewer.ProbeRole) {
			t.Fatalf("an empty Vault stays empty: %v", r.roles)
		}
		time.Sleep(20 * time.Minute) // the reviewer token is good for an hour
		synctest.Wait()
		if n := r.count(writes...); n != 0 {
			t.Errorf("%d writes without a reason", n)
		}
		// Two resyncs, and one to delete what the first token has left.
		if n := r.count("Observe"); n > 3 {
			t.Errorf("%d looks in 20 minutes", n)
		}
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		rotations := r.count("WriteConfig")
		if rotations < 18 || rotations > 25 {
			t.Errorf("the token of an hour was replaced %d times in 10 hours", rotations)
		}
		if n := r.count("Enable", "Tune", "WriteRole", "DeleteRole"); n != 0 {
			t.Errorf("%d other writes", n)
		}
		if n := len(r.secrets); n > 2 {
			t.Errorf("%d Secrets are left", n)
		}
	})
}

// A change is in Vault within seconds; many at once are one look.
func TestChangeIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.count("Observe")
		r.sources[source]["other"] = role
		for range 100 {
			r.tell(configMap("vault-auth-roles"))
		}
		time.Sleep(2 * time.Second)
		if !r.has("other") {
			t.Error("the new role is not in Vault")
		}
		time.Sleep(30 * time.Second)
		if n := r.count("Observe"); n > 2 {
			t.Errorf("100 changes at once made %d looks", n)
		}
	})
}

// A failure is tried again, soon at first, and within a minute for as long as it
// lasts.
func TestFailureIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = away
		r := run(t, w, nil)
		time.Sleep(30 * time.Second)
		if n := r.count("Observe"); n < 4 || n > 6 {
			t.Errorf("%d tries in the first 30 seconds", n)
		}
		time.Sleep(3 * time.Hour)
		r.count("Observe")
		time.Sleep(time.Hour)
		if n := r.count("Observe"); n < 58 || n > 62 {
			t.Errorf("%d tries in an hour of an outage", n)
		}
		told := r.events()
		if len(told) != 1 || !strings.Contains(told[0], "Warning ReconcileFailed") || !strings.Contains(told[0], "connection refused") {
			t.Errorf("an outage of hours was told as %q", told)
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		time.Sleep(time.Minute + time.Second)
		if !r.has("shop") {
			t.Error("nothing is done a minute after the outage")
		}
		if told = r.events(); len(told) == 0 || !strings.Contains(told[len(told)-1], "Normal Reconciled") {
			t.Errorf("the end of the outage was told as %q", told)
		}
		// The next outage begins with soon.
		r.count("Record")
		w.mu.Lock()
		w.fail = func(string) error { return errors.New("down again") }
		w.mu.Unlock()
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(5 * time.Second)
		if n := r.count("Record"); n < 2 {
			t.Errorf("%d tries in 5 seconds", n)
		}
	})
}

// Deleting the Secret of the reviewer token ends the token, so that there is
// another at once. Other Secrets come and go with each token.
func TestKillSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.count(writes...)
		r.count("Observe")
		now := r.record.Reviewer
		in := func(name string) watched { return watched{secrets, "latchkey", name} }
		r.tell(change{watched: in(now.Secret), uid: now.SecretUID})              // made
		r.tell(change{watched: in(now.Secret), uid: "before", gone: true})       // replaced
		r.tell(change{watched: in("latchkey-reviewer-b"), uid: "b", gone: true}) // cleaned up
		time.Sleep(10 * time.Second)
		if n := r.count("Observe"); n != 0 {
			t.Errorf("%d looks for Secrets that matter to nobody", n)
		}
		r.mu.Lock()
		delete(r.secrets, now.Secret)
		r.mu.Unlock()
		r.tell(change{watched: in(now.Secret), uid: now.SecretUID, gone: true})
		time.Sleep(3 * time.Second)
		if r.count("WriteConfig") != 1 || r.record.Reviewer.SecretUID == now.SecretUID {
			t.Errorf("the dead token was not replaced: %+v", r.record.Reviewer)
		}
	})
}

// A reviewer whose ServiceAccount was deleted needs another token, as soon as
// there is such an account again; and no more than one.
func TestReviewerMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.count(writes...)
		account := watched{serviceAccounts, "latchkey", "latchkey-reviewer"}
		r.mu.Lock()
		r.fail = func(call string) error {
			if call == "Token" {
				return errors.New("serviceaccounts \"latchkey-reviewer\" not found")
			}
			return nil
		}
		r.mu.Unlock()
		r.tell(change{watched: account, uid: "1", gone: true})
		time.Sleep(time.Minute)
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		r.tell(change{watched: account, uid: "2"})
		time.Sleep(5 * time.Minute)
		if n := r.count("WriteConfig"); n != 1 {
			t.Errorf("%d new tokens for a ServiceAccount that was made again", n)
		}
	})
}

// With mode jwt the cluster's keys are looked at each minute, Vault only when
// they have changed.
func TestKeysAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), func(c *Config) { c.Reviewer.Mode = reviewer.JWT; c.Resync *= 6 })
		time.Sleep(5 * time.Second)
		r.mu.Lock()
		r.world.keys["early"] = "-----BEGIN PUBLIC KEY-----\nMw==\n-----END PUBLIC KEY-----\n"
		r.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if n := len(r.config["jwt_validation_pubkeys"].([]string)); n != 2 {
			t.Errorf("a key that came right after the start is not among %d", n)
		}
		r.count("Observe")
		time.Sleep(30 * time.Minute)
		if n := r.count("Observe"); n != 0 {
			t.Errorf("%d looks at Vault while the keys stayed the same", n)
		}
		r.count("WriteConfig")
		r.mu.Lock()
		r.world.keys["two"] = "-----BEGIN PUBLIC KEY-----\nMg==\n-----END PUBLIC KEY-----\n"
		r.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if n := r.count("WriteConfig"); n != 1 || len(r.config["jwt_validation_pubkeys"].([]string)) != 3 {
			t.Errorf("%d writes after the keys changed: %v", n, r.config)
		}
	})
}

// The end of the process waits for the step that has begun, and begins no other;
// what was done is noted.
func TestEndInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.sources[source]["second"] = role
		begun, goOn := make(chan struct{}), make(chan struct{})
		wrote := 0
		w.during = func(call string) {
			if call == "WriteRole" {
				if wrote++; wrote == 2 { // the first is of the probe
					close(begun)
					<-goOn
				}
			}
		}
		r := run(t, w, nil)
		<-begun
		over := make(chan struct{})
		go func() {
			defer close(over)
			r.stop()
		}()
		synctest.Wait()
		select {
		case <-over:
			t.Fatal("ended in the middle of a step")
		default:
		}
		close(goOn)
		<-over
		if !w.has("second") || w.has("shop") || wrote != 2 {
			t.Errorf("after the end Vault has %v", w.roles)
		}
		if told := r.events(); len(told) != 1 || !strings.Contains(told[0], "role/second") {
			t.Errorf("an end without a failure is told as %q", told)
		}
		if noted := w.record.Roles["second"]; noted.Creating || noted.Hash == "" {
			t.Errorf("what was done is noted as %+v", noted)
		}
	})
}

// An answer that is wrong is told once, and again when it changes.
func TestProblemsAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.sources[source]["broken"] = `{"audiance": "x"}`
		r := run(t, w, nil)
		time.Sleep(time.Hour) // and six resyncs
		if told := r.events(); len(told) != 2 || !strings.HasPrefix(told[1], "Normal RoleWritten wrote auth/kubernetes/role/shop") ||
			!strings.HasPrefix(told[0], "Warning InvalidRole key broken: ") || !strings.Contains(told[0], `did you mean "audience"?`) {
			t.Errorf("told %q", told)
		}
		if n := strings.Count(r.log.String(), "leaving as it is"); n != 1 {
			t.Errorf("%d lines of log about it", n)
		}
		w.sources[source]["broken"] = `{"audience": 5}`
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(3 * time.Second)
		if told := r.events(); len(told) != 1 || !strings.Contains(told[0], "audience") {
			t.Errorf("another mistake was told as %q", told)
		}
		w.sources[source]["broken"] = role
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(3 * time.Second)
		if told := r.events(); len(told) != 1 || !strings.Contains(told[0], "role/broken") {
			t.Errorf("the mended role was told as %q", told)
		}
	})
}

// Whatever is refused or not understood is in the metrics for as long as it is so.
func TestStateIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.sources[source]["broken"] = "{"
		r := run(t, w, nil)
		time.Sleep(5 * time.Second)
		w.roles["taken"] = w.roles["shop"] // somebody else's
		w.sources[source]["taken"] = role
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(5 * time.Second)
		for _, want := range []string{
			`latchkey_authconfig_invalid_role{role="broken",source="vault-auth/vault-auth-roles"} 1`,
			`latchkey_authconfig_refused{kind="role"} 1`,
			`latchkey_authconfig_roles{state="invalid"} 1`,
			`latchkey_authconfig_roles{state="kept"} 1`,
			`latchkey_authconfig_roles{state="refused"} 1`,
			`latchkey_authconfig_reconciles_total{result="incomplete"} 2`,
			`latchkey_authconfig_writes_total{kind="mount",result="success",verb="create"} 1`,
			`latchkey_authconfig_reviewer_token_expires_timestamp_seconds `,
		} {
			if !strings.Contains(r.scrape(t), want) {
				t.Errorf("no %s in\n%s", want, r.scrape(t))
			}
		}
		delete(w.sources[source], "broken")
		delete(w.sources[source], "taken")
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(5 * time.Second)
		for _, not := range []string{"latchkey_authconfig_invalid_role{", "latchkey_authconfig_refused{"} {
			if strings.Contains(r.scrape(t), not) {
				t.Errorf("%s is still in\n%s", not, r.scrape(t))
			}
		}
		if w.roles["taken"] == nil {
			t.Error("somebody else's role was deleted")
		}
	})
}

// What others changed in Vault is put back on the next resync, and counted.
func TestDriftIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		delete(r.roles, "shop")
		r.mount.Tune = plan.Tune{Description: "mine"}
		time.Sleep(11 * time.Minute)
		if !r.has("shop") || r.mount.Tune.Description != "Kept by latchkey authconfig" {
			t.Errorf("not put back: %v, %v", r.roles, r.mount)
		}
		for _, kind := range []string{"role", "tune"} {
			if want := `latchkey_authconfig_drift_repaired_total{kind="` + kind + `"} 1`; !strings.Contains(r.scrape(t), want) {
				t.Errorf("no %s", want)
			}
		}
	})
}
