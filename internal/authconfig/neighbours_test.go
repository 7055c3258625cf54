package authconfig

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/config"
)

// Whoever edits a ConfigMap all the time is no load on Vault, and holds up what
// others change for seconds alone.
func TestChangesWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newWorld(), nil)
		time.Sleep(time.Hour)
		r.count("Observe")
		for range 10 * 60 {
			r.tell(configMap("vault-auth-roles"))
			time.Sleep(time.Second)
		}
		if n := r.count("Observe"); n < 60 || n > 95 {
			t.Errorf("%d looks in ten minutes of changes", n)
		}
		r.sources[source]["other"] = role
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(steady + time.Second)
		if !r.has("other") {
			t.Error("the new role is not in Vault")
		}
	})
}

// Whoever fills a ConfigMap with mistakes drowns nothing that others are told.
func TestManyProblemsOfOneConfigMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for i := range 1000 {
			w.sources[source][fmt.Sprintf("broken%d", i)] = "{"
		}
		r := run(t, w, nil)
		time.Sleep(time.Hour)
		if n := strings.Count(r.log.String(), "leaving as it is"); n != mostTold || !strings.Contains(r.log.String(), "and 980 more things are left as they are") {
			t.Errorf("%d lines of log", n)
		}
		if told := r.events(); len(told) != mostTold+2 || !strings.Contains(told[mostTold], "and 980 more") {
			t.Errorf("%d Events: %q", len(told), told)
		}
		metrics := r.scrape(t)
		if n := strings.Count(metrics, "latchkey_authconfig_invalid_role{"); n != mostSeries || !strings.Contains(metrics, `latchkey_authconfig_roles{state="invalid"} 1000`) {
			t.Errorf("%d series", n)
		}
		w.sources[source] = map[string]string{"shop": role}
		r.tell(configMap("vault-auth-roles"))
		time.Sleep(3 * time.Second)
		if n := strings.Count(r.log.String(), "no longer wrong"); n != mostTold {
			t.Errorf("%d lines of log when all is mended", n)
		}
	})
}

// A role that Vault does not take is no reason to read all others each minute, nor
// to let the reviewer token end.
func TestRoleThatVaultDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = func(call string) error {
			if call == "WriteRole" && w.has(reviewer.ProbeRole) {
				return errors.New("no such field (400)")
			}
			return nil
		}
		r := run(t, w, func(c *Config) { c.Reviewer.Life = config.Duration(10 * time.Minute) })
		time.Sleep(30 * time.Second)
		if n := r.count("Observe"); n < 4 {
			t.Errorf("%d tries in the first 30 seconds", n)
		}
		time.Sleep(time.Hour)
		r.count("Observe", "WriteConfig")
		time.Sleep(time.Hour)
		// Each token is replaced after some 5 minutes, and its Secret deleted later.
		if n := r.count("WriteConfig"); n < 10 || n > 14 {
			t.Errorf("%d new tokens in an hour", n)
		}
		if n := r.count("Observe"); n > 40 {
			t.Errorf("%d looks in an hour", n)
		}
	})
}

// Nor is it one to see later what others changed, or that Vault is back.
func TestRoleThatVaultDoesNotTakeDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = func(call string) error {
			if call == "WriteRole" && w.has(reviewer.ProbeRole) {
				return errors.New("no such field (400)")
			}
			return nil
		}
		r := run(t, w, func(c *Config) { c.Resync = config.Duration(time.Minute) })
		time.Sleep(3 * time.Hour)
		r.count("Observe")
		time.Sleep(time.Hour)
		if n := r.count("Observe"); n < 55 {
			t.Errorf("%d looks in an hour, with one each minute asked for", n)
		}
		w.mu.Lock()
		w.fail = func(string) error { return errors.New("connection refused") }
		w.mu.Unlock()
		r.tell(configMap("vault-auth-roles"))
		r.count("Record")
		time.Sleep(15 * time.Second)
		if n := r.count("Record"); n < 4 {
			t.Errorf("%d tries in the first 15 seconds of an outage", n)
		}
	})
}
