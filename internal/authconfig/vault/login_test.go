package vault

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	jwtLogin = "PUT auth/jwt/login"
	revoke   = "PUT auth/token/revoke-self"
	lookup   = "GET auth/token/lookup-self"
)

// One long outage would lock authconfig out of the mount that it keeps.
func TestLoginThroughTheMountThatIsKept(t *testing.T) {
	for _, c := range []struct {
		method, mount, namespace, login string
		refused                         bool
	}{
		{"kubernetes", "kubernetes", "", "", true},
		{"kubernetes", "/auth/kubernetes/", "", "", true},
		{"jwt", "auth/kubernetes", "team/a", "", true},
		{"jwt", "auth/kubernetes", "team/a", "/team/a/", true},
		{"jwt", "auth/kubernetes", "team/a", "team/b", false},
		{"kubernetes", "kubernetes/login", "", "", false},
		{"jwt", "jwt", "", "", false},
	} {
		v := config.Vault{Address: "https://v", Namespace: c.namespace, Auth: config.Auth{Method: c.method, Mount: c.mount, Namespace: c.login, Role: "r", TokenPath: "/x"}}
		_, err := newClient(v, "auth/kubernetes", "kubernetes", nil, nil)
		if (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if c.refused && (err == nil || !strings.Contains(err.Error(), "one long outage would lock it out (log in at another mount")) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := newClient(config.Vault{Auth: config.Auth{Method: "cert", Mount: "cert"}}, "kubernetes", "kubernetes", nil, nil); err == nil || !strings.Contains(err.Error(), `vault.auth.method: "cert" (jwt, approle, token, kubernetes)`) {
		t.Error(err)
	}
}

// A root token is refused, however it comes, and does not stay.
func TestRootToken(t *testing.T) {
	for name, method := range map[string]func(*config.Vault){"jwt": nil, "kubernetes": kubernetes, "approle": approle, "token": tokenFile} {
		t.Run(name, func(t *testing.T) {
			f, c := start(t, method)
			f.policies, f.lookup["policies"] = []string{"root"}, []string{"root"}
			_, err := c.read(t.Context(), "sys/auth")
			f.wantError(err, "it is a root token, which no program may have: give one with the policy that authconfig policy prints")
			f.want(0, "GET sys/auth")
			if name != "token" {
				f.want(1, revoke)
			}
		})
	}
}

// A token is replaced when two thirds of its life are over and something is to
// be asked, and never before.
func TestTokenIsReplacedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t, nil)
		f.want(0, jwtLogin)
		read(t, c)
		time.Sleep(39 * time.Minute)
		read(t, c)
		f.want(1, jwtLogin)
		time.Sleep(20 * time.Minute)
		f.want(1, jwtLogin)
		read(t, c)
		f.want(2, jwtLogin)
		f.want(1, revoke)
		if len(f.tokens) != 2 { // that of the file is one
			t.Errorf("good tokens: %v", f.tokens)
		}
		c.Close(t.Context())
		f.want(2, revoke)
		read(t, c)
		f.want(3, jwtLogin)
		time.Sleep(2 * time.Hour)
		read(t, c)
		f.want(4, jwtLogin)
		f.want(2, revoke) // what has ended is not revoked
	})
}

// A batch token has nothing to revoke.
func TestBatchToken(t *testing.T) {
	f, c := start(t, nil)
	f.batch = true
	read(t, c)
	c.Close(t.Context())
	f.want(0, revoke)
}

// A login that fails while the token is still good stops nothing.
func TestLoginFailsWhileTheTokenIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t, nil)
		var told []error
		c.LoggedIn = func(err error) { told = append(told, err) }
		read(t, c)
		f.set(func() { f.down = true })
		time.Sleep(41 * time.Minute)
		read(t, c)
		read(t, c)
		f.want(2, jwtLogin)
		time.Sleep(61 * time.Second)
		read(t, c)
		f.want(3, jwtLogin)
		if !strings.Contains(f.log.String(), "keeping the token of before") {
			t.Error(f.log.String())
		}
		time.Sleep(20 * time.Minute)
		_, err := c.read(t.Context(), "sys/auth")
		f.wantError(err, `logging in to https://vault.example:8200 at auth/jwt with role "latchkey-authconfig" as ServiceAccount latchkey/latchkey-authconfig`, "Vault is sealed", "(503): unseal it")
		f.set(func() { f.down = false })
		read(t, c)
		if len(told) != 5 || told[0] != nil || told[3] == nil || told[4] != nil {
			t.Errorf("logins told: %v", told)
		}
	})
}

// A token that was revoked is made up for by one login and one more call.
func TestRevokedToken(t *testing.T) {
	f, c := start(t, nil)
	read(t, c)
	f.set(func() { clear(f.tokens) })
	read(t, c)
	f.want(2, jwtLogin)
	f.want(3, "GET sys/auth")
	f.set(func() { clear(f.tokens); f.down = true })
	_, err := c.read(t.Context(), "sys/auth")
	f.wantError(err, "logging in", "Vault is sealed")
}

// Where no token is good, not even a new one, one login and one more call are enough
// to see that.
func TestNoTokenIsGood(t *testing.T) {
	f, c := start(t, nil)
	f.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors": ["permission denied", "invalid token"]}`)
	}
	_, err := c.read(t.Context(), "sys/auth")
	f.wantError(err, "reading sys/auth: permission denied; invalid token (403)")
	f.want(2, jwtLogin)
	f.want(2, "GET sys/auth")
}

// However many calls meet a token that is not good any more, there is one login.
func TestRevokedTokenUnderManyCalls(t *testing.T) {
	f, c := start(t, nil)
	read(t, c)
	f.set(func() { clear(f.tokens) })
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			if _, err := c.read(t.Context(), "sys/auth"); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	f.want(2, jwtLogin)
}

// A denied call says which line of the policy is missing. It is followed by one
// login in ten minutes, since policies added to a role reach new tokens alone.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t, nil)
		f.deny = func(path string) bool { return strings.HasPrefix(path, "auth/kubernetes/") }
		ctx := t.Context()
		_, _, err := c.write(ctx, "auth/kubernetes/config", nil)
		f.wantError(err, "writing auth/kubernetes/config: ", "permission denied", "(403)", `needs "update"`, `path "auth/kubernetes/config" { capabilities = ["read", "update"] }`, "see authconfig policy")
		_, err = c.list(ctx, "auth/kubernetes/role")
		f.wantError(err, `needs "list"`, `path "auth/kubernetes/role" { capabilities = ["list"] }`)
		_, _, err = c.write(ctx, "auth/kubernetes/role/app", nil)
		f.wantError(err, `needs "create" where it is new, else "update"`, `path "auth/kubernetes/role/+" { capabilities = ["create", "read", "update", "delete"] }`)
		f.wantError(c.remove(ctx, "auth/kubernetes/role/app"), `needs "delete"`)
		f.want(2, jwtLogin)
		time.Sleep(11 * time.Minute)
		f.set(func() { f.deny = func(string) bool { return f.made < 3 } })
		if _, err := c.list(ctx, "sys/auth"); err == nil || !strings.Contains(err.Error(), errNoData.Error()) {
			t.Errorf("got %v, want the answer of a new token", err)
		}
		f.want(3, jwtLogin)
		time.Sleep(11 * time.Minute)
		f.set(func() { f.deny, f.down = func(path string) bool { return path == "sys/auth/kubernetes" }, true })
		_, _, err = c.write(ctx, "sys/auth/kubernetes", nil)
		f.wantError(err, `needs "update" and "sudo"`, `path "sys/auth/kubernetes" { capabilities = ["update", "sudo"] }`)
		read(t, c) // the login failed, and the token is as good as it was
	})
}

// What lies in the file is used, whenever it changes; it is looked up once.
func TestTokenOfAFile(t *testing.T) {
	f, c := start(t, tokenFile)
	read(t, c)
	read(t, c)
	f.want(1, lookup)
	put(t, c.vault.Auth.TokenPath, "hvs.other-of-the-test")
	_, err := c.read(t.Context(), "sys/auth")
	f.wantError(err, "looking up the token in ", "invalid token", "it has run out, or was revoked (put another one there)")
	f.set(func() { f.tokens["hvs.other-of-the-test"] = true })
	read(t, c)
	f.set(func() { clear(f.tokens) })
	_, err = c.read(t.Context(), "sys/auth")
	f.wantError(err, "it has run out, or was revoked")
	// One that may not look itself up is no root token.
	f.set(func() {
		f.tokens["hvs.other-of-the-test"] = true
		f.deny = func(path string) bool { return path == "auth/token/lookup-self" }
	})
	read(t, c)
	c.Close(t.Context())
	f.want(0, revoke)
	put(t, c.vault.Auth.TokenPath, "two words")
	_, err = c.read(t.Context(), "sys/auth")
	f.wantError(err, "holds more than one word of ASCII")
}

// Somebody else's token is renewed at half of its life.
func TestTokenOfAFileIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const renewal = "PUT auth/token/renew-self"
		f, c := start(t, tokenFile)
		ctx, cancel := context.WithCancel(t.Context())
		go c.Keep(ctx)
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		f.want(1, lookup)
		f.want(0, renewal)
		time.Sleep(2 * time.Minute)
		f.want(1, renewal)
		time.Sleep(28 * time.Minute)
		f.set(func() { f.deny = func(string) bool { return true } })
		time.Sleep(10*time.Minute + time.Second)
		f.set(func() { f.deny = nil })
		synctest.Wait()
		n := f.count(renewal)
		if told := strings.Count(f.log.String(), "is not renewed"); told != 1 || n < 5 {
			t.Errorf("told %d times of %d renewals", told, n)
		}
		time.Sleep(61 * time.Second)
		if f.count(renewal) > n+1 {
			t.Errorf("renewed %d times too often", f.count(renewal)-n-1)
		}
		n = f.count(renewal)
		time.Sleep(28 * time.Minute)
		f.want(n, renewal)
		cancel()
		synctest.Wait()
	})
}

// IDs that Vault refused are not shown again for a while, since five wrong
// logins lock the role ID out; others are at once.
func TestRefusedIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const login = "PUT auth/approle/login"
		f, c := start(t, approle)
		put(t, c.vault.Auth.SecretIDPath, "wrong-of-the-test")
		for range 3 {
			_, err := c.read(t.Context(), "sys/auth")
			f.wantError(err, "with the role ID in "+c.vault.Auth.RoleIDPath, "invalid role or secret ID", "put a new one into its file")
			time.Sleep(time.Minute)
		}
		f.want(1, login)
		time.Sleep(3 * time.Minute)
		_, _ = c.read(t.Context(), "sys/auth")
		f.want(2, login)
		put(t, c.vault.Auth.SecretIDPath, "secret-of-the-test")
		f.set(func() { f.down = true })
		for range 2 { // a Vault that is sealed has refused nothing
			_, _ = c.read(t.Context(), "sys/auth")
		}
		f.set(func() { f.down = false })
		read(t, c)
		f.want(5, login)
	})
}

func TestFilesThatAreMissing(t *testing.T) {
	for want, change := range map[string]func(*config.Vault){
		"reading the ServiceAccount token: open /none": func(v *config.Vault) { v.Auth.TokenPath = "/none" },
		"reading the role ID: open /none":              func(v *config.Vault) { approle(v); v.Auth.RoleIDPath = "/none" },
		"reading the secret ID: open /none":            func(v *config.Vault) { approle(v); v.Auth.SecretIDPath = "/none" },
		"reading the Vault token: open /none":          func(v *config.Vault) { tokenFile(v); v.Auth.TokenPath = "/none" },
	} {
		f, c := start(t, change)
		_, err := c.read(t.Context(), "sys/auth")
		f.wantError(err, want)
	}
}

// Logins and calls may be of two namespaces of Vault; its health is of none.
func TestNamespaces(t *testing.T) {
	f, c := start(t, func(v *config.Vault) {
		v.Namespace, v.Auth.Namespace, v.Headers = "team/a", "team", map[string]string{"X-Tenant": "blue"}
	})
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_TOKEN", "hvs.ambient-of-the-test")
	read(t, c)
	if id, err := c.health(t.Context()); err != nil || id != "c" {
		t.Error(id, err)
	}
	c.Close(t.Context())
	var got []string
	for _, r := range f.requests {
		got = append(got, strings.TrimPrefix(r.URL.Path, "/v1/")+" "+r.Header.Get("X-Vault-Namespace")+" "+r.Header.Get("X-Tenant"))
	}
	want := "auth/jwt/login team blue, sys/auth team/a blue, sys/health  blue, auth/token/revoke-self team blue"
	if strings.Join(got, ", ") != want {
		t.Errorf("got %q", got)
	}
}

// Only Vault's own word that nothing is there is taken for that.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string // of the error; empty is none, and nothing there
	}{
		{"absent", 404, `{"errors":[]}`, ""},
		{"no mount", 404, `{"errors":["no handler for route \"auth/kubernetes/config\". route entry not found."]}`, "route entry not found. (404): there is no auth method at auth/kubernetes"},
		{"a proxy's JSON", 404, `{"message":"no Route matched"}`, "answered 404 with what is no answer of Vault: is something between here and Vault?"},
		{"a proxy's page", 404, `<html>`, "answered 404 with what is no answer of Vault"},
		{"TLS where none is spoken", 400, "Client sent an HTTP request to an HTTPS server.\n", "Vault speaks TLS there (400): begin vault.address with https://"},
		{"a proxy's error", 502, `<html>`, "the answer is none of Vault's (502): is something between here and Vault?"},
		{"a standby", 307, ``, "answered 307, a redirect: a standby sends elsewhere"},
		{"nothing", 200, `{}`, "the answer lacks what it should hold"},
		{"no JSON", 200, `hello`, "is something between here and Vault?"},
		{"silence", 500, `{"errors":[]}`, "Vault says no more than the status (500)"},
		{"sealed", 503, `{"errors":["Vault is sealed"]}`, "reading auth/kubernetes/config: Vault is sealed (503)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, client := start(t, nil)
			f.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://other.example/v1/x")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}
			data, err := client.read(t.Context(), "auth/kubernetes/config")
			if data != nil {
				t.Errorf("got data %v", data)
			}
			if c.want != "" {
				f.wantError(err, c.want)
			} else if err != nil {
				t.Error(err)
			}
			if _, err := client.list(t.Context(), "auth/kubernetes/role"); (err == nil) != (c.want == "") {
				t.Errorf("list: %v", err)
			}
		})
	}
	f, c := start(t, nil)
	data, err := c.read(t.Context(), "sys/auth")
	if err != nil || data["number"].(interface{ String() string }).String() != "12345678901234567890" {
		t.Errorf("a number came as %v (%v)", data, err)
	}
	f.clean(f.log.String())
}
