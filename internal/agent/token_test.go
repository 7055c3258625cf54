package agent

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// count says how often a call was made among the calls taken.
func count(calls []string, call string) (n int) {
	for _, c := range calls {
		if c == call {
			n++
		}
	}
	return n
}

// A token is renewed at two thirds of its life and every ten minutes at the
// latest, and never right after the login.
func TestRenewal(t *testing.T) {
	for _, c := range []struct {
		ttl      time.Duration
		min, max int // renewals in six hours
	}{
		{90 * time.Second, 360, 400},
		{time.Hour, 36, 40},
		{12 * time.Hour, 36, 40},
	} {
		t.Run(c.ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.vault.role.ttl = c.ttl
				run := p.start()
				after(time.Second)
				if n := count(p.vault.taken(), callRenew); n != 0 {
					t.Errorf("%d renewals right after the login", n)
				}
				after(6 * time.Hour)
				calls := p.vault.taken()
				if n := count(calls, callRenew); n < c.min || n > c.max {
					t.Errorf("%d renewals, want %d to %d", n, c.min, c.max)
				}
				if n := count(calls, callLogin); n != 0 {
					t.Errorf("%d further logins", n)
				}
				run.terminate()
			})
		})
	}
}

// At its maximum TTL a token is replaced before it ends; the old one is
// revoked only when the secrets have been read under the new one.
func TestMaxTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.role.max = 3 * time.Hour
		c := p.start()
		after(2*time.Hour + 45*time.Minute)
		if p.vault.minted != 1 {
			t.Fatalf("%d tokens after 2 h 45 min", p.vault.minted)
		}
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/v1/kv/") && says(500, nil, `{"errors":["internal error"]}`)(w, r)
			}
		})
		after(13 * time.Minute)
		if p.vault.minted != 2 || p.vault.good() != 2 {
			t.Errorf("%d tokens minted, %d good: want both, since nothing was read under the new one", p.vault.minted, p.vault.good())
		}
		p.vault.set(func() { p.vault.fault = nil })
		after(2 * time.Minute)
		if p.vault.good() != 1 || !p.vault.tokens[tokenPrefix+"1"].revoked {
			t.Error("the old token is left")
		}
		after(24 * time.Hour)
		if p.vault.minted > 11 || p.vault.good() > 2 {
			t.Errorf("%d tokens in 27 h, %d good", p.vault.minted, p.vault.good())
		}
		p.wantReady()
		c.terminate()
		if p.vault.good() != 0 {
			t.Error("a token is left")
		}
	})
}

// What cannot be renewed is replaced in time; a batch token is not revoked.
func TestNotRenewable(t *testing.T) {
	for name, role := range map[string]fakeRole{
		"batch":         {ttl: 20 * time.Minute, batch: true},
		"not renewable": {ttl: 20 * time.Minute, fixed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.vault.role = role
				c := p.start()
				for range 100 {
					after(time.Minute)
					if p.vault.good() == 0 {
						t.Fatal("no good token")
					}
				}
				calls := p.vault.taken()
				if n := count(calls, callLogin); n < 6 || n > 9 {
					t.Errorf("%d logins in 100 min", n)
				}
				if n := count(calls, callRenew); n != 0 {
					t.Errorf("%d renewals", n)
				}
				c.terminate()
				if n := count(append(calls, p.vault.taken()...), callEnd); role.batch != (n == 0) {
					t.Errorf("%d revocations", n)
				}
			})
		})
	}
}

// A policy that lacks renew-self makes a token that cannot be renewed.
func TestNoDefaultPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/auth/token/renew-self" && says(403, nil, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)(w, r)
		}
		c := p.start()
		for range 300 {
			after(time.Minute)
			if p.vault.good() == 0 {
				t.Fatal("no good token")
			}
		}
		calls := p.vault.taken()
		if logins, renewals := count(calls, callLogin), count(calls, callRenew); logins < 5 || logins > 7 || renewals > logins {
			t.Errorf("%d logins, %d renewals in 5 h", logins, renewals)
		}
		c.terminate()
	})
}

// A token that someone revoked is replaced at the next call that says so.
func TestRevokedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		p.vault.set(func() { p.vault.tokens[tokenPrefix+"1"].revoked = true })
		p.vault.taken()
		after(330 * time.Second)
		p.wantCalls(callRead, callLogin, callRead)
		p.wantReady()
		c.terminate()
	})
}

// A Vault that calls every token invalid is not asked for tokens in a loop.
func TestEveryTokenInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path != "/v1/auth/kubernetes/login" && says(403, nil, `{"errors":["permission denied","invalid token"]}`)(w, r)
		}
		c := p.start()
		after(100 * time.Second)
		if n := p.vault.minted; n < 3 || n > 60 {
			t.Errorf("%d logins in 100 s", n)
		}
		c.terminate()
	})
}

// A deleted role: the token lives on, the agent says what is wrong, and a role
// that comes back heals it.
func TestRoleDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		p.vault.set(func() { p.vault.role.gone = true })
		after(11 * time.Minute)
		if !strings.Contains(p.logs.String(), `invalid role name \"payments\" (400): create the role`) {
			t.Error("the log does not say that the role is gone")
		}
		p.vault.taken()
		after(6 * time.Minute)
		if !slices.Contains(p.vault.taken(), callRead) {
			t.Error("secrets are not read any more, although the token is good")
		}
		after(3 * time.Hour)
		p.wantReady()
		p.vault.set(func() { p.vault.role.gone = false })
		after(5 * time.Minute)
		if p.vault.good() != 1 {
			t.Error("no new token")
		}
		c.terminate()
	})
}

// Vault is gone for longer than the token lives.
func TestOutageBeyondTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Minute)
		p.vault.set(func() { p.vault.cut = true })
		after(5 * time.Hour)
		p.wantReady()
		p.vault.set(func() { p.vault.cut = false })
		p.vault.taken()
		after(2*time.Minute + time.Second)
		if !slices.Contains(p.vault.taken(), callLogin) {
			t.Error("no login within two minutes")
		}
		after(10 * time.Minute)
		if got := p.file("db.env"); got != appEnv {
			t.Errorf("file holds %q", got)
		}
		c.terminate()
	})
}

// SIGTERM while Vault hangs: one short try, and the end.
func TestTerminateWhileVaultHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		p.vault.set(func() { p.vault.fault = hang })
		after(5*time.Minute + 31*time.Second)
		began := time.Now()
		if err := c.terminate(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > revokeTimeout {
			t.Errorf("ended after %s", d)
		}
		if ok, _ := p.ready(); ok {
			t.Error("the gate is open although the token may be revoked")
		}
	})
}

// A revocation that Vault could not do is tried again.
func TestFailedRetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.role.max = time.Hour
		c := p.start()
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				return r.URL.Path == "/v1/auth/token/revoke-self" && says(503, nil, `{"errors":["Vault is sealed"]}`)(w, r)
			}
		})
		after(56 * time.Minute)
		if p.vault.minted != 2 || p.vault.good() != 2 {
			t.Fatalf("%d tokens, %d good", p.vault.minted, p.vault.good())
		}
		// The fake's clock alone must not make the old one end.
		p.vault.set(func() {
			p.vault.fault = nil
			p.vault.tokens[tokenPrefix+"1"].expires = time.Now().Add(time.Hour)
		})
		after(6 * time.Minute)
		if p.vault.good() != 1 {
			t.Errorf("%d tokens are good", p.vault.good())
		}
		c.terminate()
	})
}

// Lives that make no sense, and tokens that never end, keep nobody busy.
func TestStrangeLives(t *testing.T) {
	for name, c := range map[string]struct{ granted, renewed string }{
		"zero":             {"0", "0"},
		"negative":         {"-5", "-5"},
		"overflow":         {"9223372036854775807", "9223372036854775807"},
		"renewed to zero":  {"3600", "0"},
		"renewed to less":  {"3600", "-1"},
		"a second, renews": {"1", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				auth := func(seconds string) func(http.ResponseWriter, *http.Request) bool {
					return says(200, nil, `{"auth":{"client_token":"`+tokenPrefix+`x","token_type":"service","renewable":true,"lease_duration":`+seconds+`}}`)
				}
				p.vault.tokens[tokenPrefix+"x"] = &fakeToken{born: time.Now(), expires: time.Now().Add(1000 * time.Hour), role: p.vault.role}
				p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
					switch r.URL.Path {
					case "/v1/auth/kubernetes/login":
						return auth(c.granted)(w, r)
					case "/v1/auth/token/renew-self":
						return auth(c.renewed)(w, r)
					}
					return false
				}
				run := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.taken()
				after(10 * time.Minute)
				if n := len(p.vault.taken()); n > 1200 {
					t.Errorf("%d calls in ten minutes", n)
				}
				run.terminate()
			})
		})
	}
}
