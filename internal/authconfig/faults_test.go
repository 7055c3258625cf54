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

// Who sets the machine's clock back does not put off what is due.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.back.Store(int64(2 * time.Hour))
		r.count("Observe", "WriteConfig")
		time.Sleep(time.Hour)
		if n := r.count("Observe"); n < 5 {
			t.Errorf("%d looks in an hour", n)
		}
		if r.count("WriteConfig") == 0 {
			t.Error("the reviewer token was not replaced in an hour")
		}
	})
}

// The kill switch works, too, while other things are written with the new token in
// Vault; and a deleted ServiceAccount is not overlooked in a crowd of changes.
func TestKillSwitchDuringARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var r *running
		begun, goOn := make(chan struct{}), make(chan struct{})
		w.during = func(call string) {
			if call == "WriteRole" && w.config != nil {
				close(begun)
				<-goOn
			}
		}
		r = run(t, w, nil)
		<-begun // the token is in Vault, and the roles are not
		r.mu.Lock()
		w.during = nil
		now := w.secrets["latchkey-reviewer-a"]
		delete(w.secrets, now.Name)
		r.mu.Unlock()
		for range 100 {
			r.tell(change{watched: watched{secrets, "latchkey", "latchkey-reviewer-b"}, uid: "b"})
			r.tell(change{watched: watched{secrets, "latchkey", now.Name}, uid: now.UID, gone: true})
		}
		close(goOn)
		r.count("WriteConfig")
		time.Sleep(10 * time.Second)
		if n := r.count("WriteConfig"); n != 1 {
			t.Errorf("%d new tokens for a dead one", n)
		}
		for range 100 {
			r.tell(configMap("vault-auth-roles"))
		}
		r.tell(change{watched: watched{serviceAccounts, "latchkey", "latchkey-reviewer"}, uid: "1", gone: true})
		time.Sleep(10 * time.Second)
		if n := r.count("WriteConfig"); n != 1 {
			t.Errorf("%d new tokens for one whose ServiceAccount was deleted", n)
		}
	})
}

// That the record is lost does not hide when the token in Vault ends: logins do,
// too, if nobody does anything.
func TestEndOfTheTokenIsMeasuredWithoutARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.record = plan.Record{}
		time.Sleep(11 * time.Minute)
		for _, want := range []string{"latchkey_authconfig_reviewer_token_expires_timestamp_seconds 9", `latchkey_authconfig_refused{kind="mount"} 1`} {
			if !strings.Contains(r.scrape(t), want) {
				t.Errorf("no %s in\n%s", want, r.scrape(t))
			}
		}
	})
}

// A mount that is somebody else's is looked at on each resync, however long ago
// the reviewer token of the one before has ended.
func TestForeignMountIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.mount = &plan.Mount{Type: "kubernetes", Accessor: "auth_2"}
		time.Sleep(2 * time.Hour)
		r.count("Observe", "WriteConfig")
		time.Sleep(time.Hour)
		if n := r.count("Observe"); n > 7 {
			t.Errorf("%d looks in an hour", n)
		}
		if n := r.count("WriteConfig"); n > 0 {
			t.Errorf("%d writes to somebody else's mount", n)
		}
	})
}

// Who takes over while Vault is out of reach tells when its reviewer token ends.
func TestEndOfTheTokenIsMeasuredWithoutVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.record = plan.Record{Version: 1, Reviewer: plan.Reviewer{Mode: reviewer.ShortLived, Secret: "latchkey-reviewer-a", Expires: time.Unix(1e9, 0)}}
		w.fail = away
		r := run(t, w, nil)
		time.Sleep(5 * time.Second)
		if want := "latchkey_authconfig_reviewer_token_expires_timestamp_seconds 1e+09"; !strings.Contains(r.scrape(t), want) {
			t.Errorf("no %s in\n%s", want, r.scrape(t))
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(5 * time.Second)
		ends := r.expires(t)
		w.mu.Lock()
		w.fail = func(string) error { return errors.New("connection refused") }
		w.mu.Unlock()
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(5 * time.Second)
		if now := r.expires(t); now != ends || strings.Contains(now, " 1e+09") {
			t.Errorf("what was %q is %q in an outage", ends, now)
		}
	})
}

func (r *running) expires(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(r.scrape(t), "\nlatchkey_authconfig_reviewer_token_expires_timestamp_seconds")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// Roles that may not be looked at stay as they are, and do not keep the reviewer
// token from being replaced.
func TestRolesThatMayNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(5 * time.Second)
		r.mu.Lock()
		r.unreadable = true
		r.sources[source]["other"] = role
		r.mu.Unlock()
		r.count(writes...)
		time.Sleep(2 * time.Hour)
		if n := r.count("WriteConfig"); n < 3 || n > 6 {
			t.Errorf("%d new tokens in two hours", n)
		}
		if n := r.count("WriteRole", "DeleteRole", "Enable"); n != 0 {
			t.Errorf("%d other writes", n)
		}
		if told := strings.Join(r.events(), "\n"); !strings.Contains(told, "ReconcileFailed listing roles: permission denied") {
			t.Errorf("told %q", told)
		}
		r.mu.Lock()
		r.unreadable = false
		r.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if !r.has("other") || !r.has("shop") {
			t.Errorf("Vault has %v", r.roles)
		}
	})
}
