package agent

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	callLease = "PUT sys/leases/renew"
	callCreds = "GET db/creds/app"
)

// leased is an entry with the name of a credential that has a lease.
func leased(path string) config.File {
	return config.File{Path: path, Secret: "db/creds/app", Format: config.FormatRaw, Key: "username"}
}

// wantWorking checks in every interval of a span that what the app reads works.
func (p *pod) wantWorking(file string, span, every time.Duration) {
	p.t.Helper()
	for began := time.Now(); time.Since(began) < span; after(every) {
		if !p.vault.works(p.file(file)) {
			p.t.Fatalf("after %s the app reads %q, which does not work", time.Since(began), p.file(file))
		}
	}
}

// A lease is renewed at two thirds of its life, at least every ten minutes, and
// never right after the read; its files stay as they are.
func TestLeaseRenewal(t *testing.T) {
	for _, c := range []struct {
		ttl         time.Duration
		least, most int // renewals in three hours
	}{{time.Minute, 265, 305}, {time.Hour, 18, 20}, {24 * time.Hour, 18, 20}} {
		t.Run(c.ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"), config.File{Path: "all", Template: `{{ with secret "db/creds/app" }}{{ .LeaseID }} {{ .LeaseDuration }} {{ .Renewable }} {{ .RequestID }}{{ end }}`})
				*p.vault.engines["db/creds/app"] = fakeEngine{ttl: c.ttl, max: 1000 * time.Hour}
				p.conf.Notify = notifyApp
				run := p.start()
				after(time.Second)
				p.wantReady()
				p.wantCalls(callLogin, callProbe+"db/creds/app", callCreds)
				was := p.file("all")
				p.wantWorking("user", 3*time.Hour, time.Minute/7)
				if n := count(p.vault.taken(), callLease); n < c.least || n > c.most {
					t.Errorf("renewed %d times, want %d to %d", n, c.least, c.most)
				}
				if p.vault.given() != 1 || p.file("all") != was || !strings.HasPrefix(was, "db/creds/app/1 ") {
					t.Errorf("%d given; %q became %q", p.vault.given(), was, p.file("all"))
				}
				if _, tries := p.app.taken(); tries != 0 {
					t.Errorf("the app was told %d times of nothing", tries)
				}
				run.terminate()
			})
		})
	}
}

// A lease that cannot be renewed any more is replaced before its end, under the
// same token, and the app is told: it never reads what does not work.
func TestLeaseEnds(t *testing.T) {
	for name, c := range map[string]struct {
		engine      fakeEngine
		fault       func(http.ResponseWriter, *http.Request) bool
		span        time.Duration
		least, most int // given in it
	}{
		"at its max TTL":    {fakeEngine{ttl: 20 * time.Minute, max: time.Hour}, nil, 3 * time.Hour, 4, 4},
		"not renewable":     {fakeEngine{ttl: 20 * time.Minute, max: 20 * time.Minute, fixed: true}, nil, 3 * time.Hour, 11, 16},
		"no default policy": {fakeEngine{ttl: 20 * time.Minute, max: time.Hour}, says(403, nil, `{"errors":["permission denied"]}`), 3 * time.Hour, 11, 16},
		"short":             {fakeEngine{ttl: 6 * time.Second, max: 20 * time.Second}, nil, 15 * time.Minute, 45, 95},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"), leased("same"), env("db.env", "kv/app"))
				*p.vault.engines["db/creds/app"] = c.engine
				p.conf.Notify = notifyApp[:1]
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return c.fault != nil && r.URL.Path == "/v1/sys/leases/renew" && c.fault(w, r)
				}
				run := p.start()
				after(time.Second)
				p.wantReady()
				p.wantWorking("user", c.span, c.engine.ttl/10)
				if n := p.vault.given(); n < c.least || n > c.most {
					t.Errorf("%d given, want %d to %d", n, c.least, c.most)
				}
				if heard, _ := p.app.taken(); len(heard) != p.vault.given()-1 || p.file("same") != p.file("user") {
					t.Errorf("the app was told %d times of %d changes", len(heard), p.vault.given()-1)
				}
				if n := count(p.vault.taken(), callLogin); n != 1 {
					t.Errorf("%d logins", n)
				}
				run.terminate()
			})
		})
	}
}

// A lease that somebody revoked is noticed at its renewal, and read anew.
func TestLeaseIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		run := p.start()
		after(time.Second)
		p.vault.set(func() { delete(p.vault.leases, "db/creds/app/1") })
		after(11 * time.Minute)
		if got := p.file("user"); got != "user-2" {
			t.Errorf("got %q", got)
		}
		run.terminate()
	})
}

// While the database is down, or the role deleted, renewals fail: nothing is
// asked for in place of what is good, which stays, and all heals by itself.
func TestLeaseWithEngineDown(t *testing.T) {
	for name, breakIt := range map[string]func(e *fakeEngine, broken bool){
		"database down": func(e *fakeEngine, broken bool) { e.down = broken },
		"role deleted":  func(e *fakeEngine, broken bool) { e.gone = broken },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"), env("db.env", "kv/app"))
				e := p.vault.engines["db/creds/app"]
				run := p.start()
				after(time.Second)
				p.vault.set(func() { breakIt(e, true) })
				p.vault.taken()
				p.wantWorking("user", 40*time.Minute, time.Minute)
				v2(p.vault, "kv/data/app", map[string]any{"a": "2"})
				after(6 * time.Minute)
				calls := p.vault.taken()
				if n := count(calls, callCreds); n != 0 || count(calls, callLease) < 10 || count(calls, callLease) > 100 || p.file("db.env") != "a='2'\n" {
					t.Errorf("%d reads, %d renewals, the other file holds %q", n, count(calls, callLease), p.file("db.env"))
				}
				p.vault.set(func() { breakIt(e, false) })
				after(3 * time.Minute)
				p.wantWorking("user", 3*time.Hour, time.Minute)
				if p.vault.given() != 1 {
					t.Errorf("%d given", p.vault.given())
				}
				if !strings.Contains(p.logs.String(), `path \"user\": renewing the lease of \"db/creds/app\": failed to renew entry`) || !strings.Contains(p.logs.String(), `works again`) {
					t.Error("the log does not tell of it")
				}
				// So long that the lease ends: the file stays, and is replaced after.
				p.vault.set(func() { breakIt(e, true) })
				after(2 * time.Hour)
				if p.file("user") != "user-1" {
					t.Errorf("the file holds %q", p.file("user"))
				}
				p.wantReady()
				if n := count(p.vault.taken(), callCreds); n == 0 || n > 150 {
					t.Errorf("%d reads", n)
				}
				p.vault.set(func() { breakIt(e, false) })
				after(6 * time.Minute)
				if p.file("user") != "user-2" || p.vault.given() != 2 {
					t.Errorf("%d given, the file holds %q", p.vault.given(), p.file("user"))
				}
				run.terminate()
			})
		})
	}
}

// At the end of a token what has a lease is read anew under the next one, and
// nothing else is; the old token, on which the app's sessions hang, is revoked
// the grace after the app was told.
func TestLeasesOutliveToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"), env("db.env", "kv/app"), certificate("tls"))
		p.conf.Refresh = config.Duration(24 * time.Hour)
		p.conf.Notify = notifyApp[:1]
		p.issues(1000 * time.Hour)
		p.vault.role.max = 3 * time.Hour
		run := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.taken()
		for p.file("user") == "user-1" {
			if !p.vault.works("user-1") {
				t.Fatal("the app reads what does not work")
			}
			after(time.Second)
		}
		calls := p.vault.taken()
		if count(calls, callLogin) != 1 || count(calls, callCreds) != 1 || count(calls, callRead) != 0 || count(calls, callIssue) != 0 {
			t.Errorf("calls %q", calls)
		}
		if heard, _ := p.app.taken(); len(heard) != 1 {
			t.Errorf("told %d times", len(heard))
		}
		after(4*time.Minute + 50*time.Second)
		if !p.vault.works("user-1") || !p.vault.works("user-2") {
			t.Error("an open session is cut before the grace is over")
		}
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].expires = time.Now().Add(time.Hour) })
		after(15 * time.Second)
		if p.vault.works("user-1") || p.vault.good() != 1 {
			t.Error("the old token is left")
		}
		p.wantWorking("user", 24*time.Hour, time.Minute)
		run.terminate()
	})
}

// What of an old token could not be replaced, or told of, keeps it from being
// revoked.
func TestOldTokenStays(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt, healIt func(p *pod)
		old             string // what works all the while
	}{
		"app not told": {func(p *pod) { p.app.set(fmt.Errorf("notifying: refused")) }, func(p *pod) { p.app.set(nil) }, "user-1"},
		"engine down":  {func(p *pod) { p.vault.set(func() { p.vault.engines["db/creds/app"].down = true }) }, func(p *pod) { p.vault.set(func() { p.vault.engines["db/creds/app"].down = false }) }, "user-1"},
		"role deleted": {func(p *pod) { p.vault.set(func() { p.vault.engines["db/creds/app"].gone = true }) }, func(p *pod) { p.vault.set(func() { p.vault.engines["db/creds/app"].gone = false }) }, "user-1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"), env("db.env", "kv/app"))
				p.conf.Notify = notifyApp[:1]
				p.conf.RetireGrace = config.Duration(10 * time.Second)
				p.vault.role.max = 3 * time.Hour
				p.vault.engines["db/creds/app"].ttl = 4 * time.Hour
				run := p.start()
				after(2 * time.Hour)
				c.breakIt(p)
				for p.vault.minted == 1 {
					after(time.Second)
				}
				// Its end by itself must not hide a revocation.
				p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].expires = time.Now().Add(10 * time.Hour) })
				for range 2 * 60 {
					after(time.Second)
					if !p.vault.works(c.old) {
						t.Fatalf("%s is cut", c.old)
					}
				}
				c.healIt(p)
				after(5 * time.Minute)
				if p.file("user") != "user-2" || p.vault.works("user-1") || !p.vault.works("user-2") || p.vault.good() != 1 {
					t.Errorf("the file holds %q, %d tokens are good", p.file("user"), p.vault.good())
				}
				run.terminate()
				if p.vault.good() != 0 {
					t.Error("a token is left")
				}
			})
		})
	}
}

// SIGTERM within the grace revokes the old token as well.
func TestTerminatedWithinGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		p.vault.role.max = 3 * time.Hour
		run := p.start()
		for p.vault.minted < 2 {
			after(time.Minute)
		}
		if p.vault.good() != 2 {
			t.Fatalf("%d tokens are good", p.vault.good())
		}
		run.terminate()
		if p.vault.good() != 0 {
			t.Errorf("%d tokens are left", p.vault.good())
		}
	})
}

// A token that Vault calls invalid takes its leases with it: all is read anew.
func TestLeasesOfDeadToken(t *testing.T) {
	for name, c := range map[string]struct {
		role   fakeRole
		engine fakeEngine
	}{
		"renewed":          {fakeRole{ttl: time.Hour, max: 24 * time.Hour}, fakeEngine{ttl: time.Hour, max: 24 * time.Hour}},
		"only lease":       {fakeRole{ttl: 24 * time.Hour, fixed: true}, fakeEngine{ttl: time.Hour, max: 24 * time.Hour}},
		"nothing is heard": {fakeRole{ttl: 24 * time.Hour, fixed: true}, fakeEngine{ttl: 12 * time.Hour, fixed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, leased("user"))
				p.conf.Notify = notifyApp[:1]
				p.vault.role, *p.vault.engines["db/creds/app"] = c.role, c.engine
				run := p.start()
				after(time.Second)
				p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = true })
				after(11 * time.Minute)
				if heard, _ := p.app.taken(); p.file("user") != "user-2" || len(heard) != 1 || p.vault.minted != 2 {
					t.Errorf("the file holds %q, told %d times, %d tokens", p.file("user"), len(heard), p.vault.minted)
				}
				run.terminate()
			})
		})
	}
}

// The leases of a batch token end with it: they are replaced with it, and not
// once more before.
func TestLeasesOfBatchToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		p.vault.role = fakeRole{ttl: time.Hour, batch: true}
		run := p.start()
		after(time.Second)
		p.wantWorking("user", 10*time.Hour, time.Second)
		if p.vault.given() != p.vault.minted || p.vault.minted < 10 || p.vault.minted > 13 {
			t.Errorf("%d given, %d tokens", p.vault.given(), p.vault.minted)
		}
		if n := count(p.vault.taken(), callEnd); n != 0 {
			t.Errorf("%d revocations", n)
		}
		run.terminate()
	})
}

// What publishes once and ends leaves the token on which leases hang.
func TestInitWithLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"), env("db.env", "kv/app"))
		p.conf.Lifecycle = config.Init
		for range 3 {
			if err := <-p.start().result; err != nil {
				t.Fatal(err)
			}
			after(time.Minute)
		}
		if p.vault.good() != 1 || p.vault.given() != 1 || !p.vault.works(p.file("user")) {
			t.Errorf("%d tokens, %d given", p.vault.good(), p.vault.given())
		}
	})
}

// What Vault takes to answer is not part of what it has granted: a short lease is
// not renewed too late for it.
func TestLeaseOfSlowVault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, leased("user"))
		*p.vault.engines["db/creds/app"] = fakeEngine{ttl: 30 * time.Second, max: 1000 * time.Hour}
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v1/sys/leases/renew" {
				return false
			}
			p.vault.mu.Lock()
			p.vault.renewLease(w, r)
			p.vault.mu.Unlock()
			select {
			case <-time.After(15 * time.Second):
			case <-r.Context().Done():
			}
			return true
		}
		run := p.start()
		after(time.Second)
		p.wantWorking("user", time.Hour, time.Second)
		if n := p.vault.given(); n != 1 {
			t.Errorf("%d given", n)
		}
		run.terminate()
	})
}
