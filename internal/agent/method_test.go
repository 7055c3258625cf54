package agent

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	fixtureRoleID   = "role-id-of-the-fixture"
	fixtureSecretID = "s3cret-id-of-the-fixture"
	fixtureWrapping = "hvs.wrapping-token-of-the-fixture"
)

// identity puts a file beside the ServiceAccount token and returns its path.
func (p *pod) identity(name, content string) string {
	p.t.Helper()
	file := filepath.Join(filepath.Dir(p.vault.jwt), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// wantNoLeak looks for what only the files of the identity may hold.
func (p *pod) wantNoLeak() {
	p.t.Helper()
	status, _ := os.ReadFile(filepath.Join(p.dir, "private", "status"))
	for _, secret := range []string{fixtureRoleID, fixtureSecretID, fixtureWrapping} {
		if strings.Contains(p.logs.String()+string(status), secret) {
			p.t.Errorf("the agent's output holds %q", secret)
		}
	}
}

// approle makes the pod log in with method approle. Vault admits who shows both
// IDs, and quotes what it refuses.
func (p *pod) approle(secretIDPath string) {
	p.conf.Vault.Auth = config.Auth{Method: "approle", Mount: "apps", RoleIDPath: p.identity("role-id", fixtureRoleID+"\n"), SecretIDPath: secretIDPath}
	p.vault.admit = func(mount string, data map[string]string) string {
		if mount != "apps" || data["role_id"] != fixtureRoleID || data["secret_id"] != fixtureSecretID {
			return "invalid role or secret ID " + data["role_id"] + data["secret_id"]
		}
		return ""
	}
}

// The method jwt sends what kubernetes does, to its own mount.
func TestJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Vault.Auth.Method, p.conf.Vault.Auth.Mount = "jwt", "auth/clusters/blue"
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls("PUT auth/clusters/blue/login", callMount, callRead)
		c.terminate()
	})
}

func TestAppRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.approle(p.identity("secret-id", "wrong-"+fixtureSecretID))
		p.vault.role.max = 2 * time.Hour
		c := p.start()
		after(time.Second)
		_, reason := p.ready()
		if want := "logging in to https://vault.test:8200 at auth/apps with the role ID in " + p.conf.Vault.Auth.RoleIDPath + ": invalid role or secret ID [secret]wrong-[secret] (400): a secret ID may have expired"; !strings.HasPrefix(strings.ReplaceAll(reason, "[secret][secret]", "[secret]wrong-[secret]"), want) {
			t.Errorf("got %s\nwant %s", reason, want)
		}
		// Vault locks a role ID out, for all who have it, after a few wrong logins.
		after(time.Minute)
		p.wantCalls("PUT auth/apps/login")
		// Another secret ID is read from the file at the next login.
		p.identity("secret-id", fixtureSecretID)
		after(11 * time.Second)
		p.wantReady()
		after(5 * time.Hour)
		p.wantReady()
		if p.vault.minted < 3 {
			t.Errorf("%d logins", p.vault.minted)
		}
		c.terminate()
		p.wantNoLeak()
	})
}

// A role without bind_secret_id needs none.
func TestAppRoleWithoutSecretID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.approle("")
		p.vault.admit = func(_ string, data map[string]string) string {
			if _, shown := data["secret_id"]; shown || data["role_id"] != fixtureRoleID {
				return "invalid role or secret ID"
			}
			return ""
		}
		c := p.start()
		after(0)
		p.wantReady()
		c.terminate()
	})
}

// A wrapped secret ID is unwrapped once, and kept for every login of the pod.
func TestWrappedSecretID(t *testing.T) {
	const path = "auth/apps/role/shop/secret-id"
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.approle(p.identity("secret-id", fixtureWrapping+"\n"))
		p.conf.Vault.Auth.SecretIDWrappingPath = path
		p.vault.wrapped = map[string]fakeWrapped{fixtureWrapping: {path, fixtureSecretID}}
		p.vault.role = fakeRole{ttl: time.Hour, fixed: true}
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls("PUT sys/wrapping/lookup", "PUT sys/wrapping/unwrap", "PUT auth/apps/login", callMount, callRead)
		after(3 * time.Hour)
		if p.vault.minted < 3 || p.vault.good() == 0 {
			t.Errorf("%d logins, %d good tokens", p.vault.minted, p.vault.good())
		}
		dead := p.killed()
		c.terminate()
		p = dead
		p.vault.taken()
		c = p.start()
		after(2 * time.Hour)
		if calls := p.vault.taken(); count(calls, "PUT auth/apps/login") == 0 || count(calls, "PUT sys/wrapping/lookup") != 0 {
			t.Errorf("after a restart: %q", calls)
		}
		p.wantReady()
		c.terminate()
		p.wantNoLeak()
	})
}

// A wrapping token that somebody else has used, or made, is told of as what it
// may be, and another one heals it.
func TestWrappingTokenOfOthers(t *testing.T) {
	const path = "auth/apps/role/shop/secret-id"
	for name, c := range map[string]struct {
		wrapped map[string]fakeWrapped
		want    string
	}{
		"used":                  {nil, "wrapping token is not valid or does not exist (400): it is no wrapping token, has run out, or has been used: unless that was here, treat the secret ID as stolen"},
		"wrapped by others":     {map[string]fakeWrapped{fixtureWrapping: {"sys/wrapping/wrap", fixtureSecretID}}, `it was made at "sys/wrapping/wrap" and not at "auth/apps/role/shop/secret-id", so it is not used: somebody may have exchanged it`},
		"not a secret ID in it": {map[string]fakeWrapped{fixtureWrapping: {path, ""}}, "what was wrapped is no secret ID"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				p.approle(p.identity("secret-id", fixtureWrapping))
				p.conf.Vault.Auth.SecretIDWrappingPath = path
				p.vault.wrapped = c.wrapped
				run := p.start()
				after(time.Second)
				if _, reason := p.ready(); !strings.Contains(reason, c.want) || !strings.Contains(p.logs.String(), `"someoneMustAct":true`) {
					t.Errorf("got %s\nwant %s", reason, c.want)
				}
				if n := count(p.vault.taken(), "PUT sys/wrapping/unwrap"); (n > 0) != (name == "not a secret ID in it") {
					t.Errorf("unwrapped %d times", n)
				}
				p.vault.set(func() {
					p.vault.wrapped = map[string]fakeWrapped{"hvs.another": {path, fixtureSecretID}}
				})
				p.identity("secret-id", "hvs.another")
				after(11 * time.Second)
				p.wantReady()
				run.terminate()
				p.wantNoLeak()
			})
		})
	}
}

// Who the certificate is of is in the messages, and its role in the login.
func TestCertificate(t *testing.T) {
	leaf := newAuthority(t, "clients").leaf("checkout")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"", "web"} {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, env("db.env", "kv/app"))
			p.conf.Vault.ClientCert, p.conf.Vault.ClientKey = p.identity("tls.crt", ""), p.identity("tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
			p.conf.Vault.Auth = config.Auth{Method: "cert", Mount: "cert", Role: role}
			refuse := "failed to match all constraints for this login certificate"
			p.vault.admit = func(_ string, data map[string]string) string {
				if name, named := data["name"]; named != (role != "") || name != role {
					t.Errorf("login with name %q", name)
				}
				return refuse
			}
			c := p.start()
			after(time.Second)
			if _, reason := p.ready(); !strings.Contains(reason, "reading the client certificate "+p.conf.Vault.ClientCert) {
				t.Errorf("got %s", reason)
			}
			p.identity("tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})))
			after(11 * time.Second)
			_, reason := p.ready()
			for _, want := range []string{`with the client certificate of "CN=checkout" (issuer "CN=clients", until `, "all constraints for this login certificate (400): a certificate role of this mount must trust the CA"} {
				if !strings.Contains(reason, want) {
					t.Errorf("got %s\nwant %s", reason, want)
				}
			}
			p.vault.set(func() { refuse = "" })
			after(11 * time.Second)
			p.wantReady()
			c.terminate()
		})
	}
}

// The token of somebody else's is renewed, and replaced as soon as its file
// holds another; it is never revoked.
func TestTokenOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		first, second := tokenPrefix+"a", tokenPrefix+"b"
		p.conf.Vault.Auth = config.Auth{Method: "token", TokenPath: p.identity("vault-token", first)}
		for _, id := range []string{first, second} {
			p.vault.tokens[id] = &fakeToken{born: time.Now(), expires: time.Now().Add(time.Hour), role: fakeRole{ttl: time.Hour, max: 4 * time.Hour}}
		}
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls("GET auth/token/lookup-self", callMount, callRead)
		after(2 * time.Hour) // it would have run out
		p.wantReady()
		p.vault.set(func() { p.vault.tokens[second].expires = time.Now().Add(time.Hour) })
		p.identity("vault-token", second)
		p.vault.taken()
		after(time.Minute)
		if calls := p.vault.taken(); count(calls, "GET auth/token/lookup-self") != 1 {
			t.Errorf("the new token is not taken within a minute: %q", calls)
		}
		p.vault.set(func() { p.vault.tokens[first].revoked = true })
		after(10 * time.Minute)
		p.wantReady()
		if strings.Contains(p.logs.String(), "invalid token") {
			t.Error("the old token is still used")
		}
		// Near its end somebody must act.
		after(4*time.Hour - 5*time.Minute)
		if !strings.Contains(p.logs.String(), "since it cannot be renewed any more (put another one there before that)") {
			t.Error("the log does not say that the token ends")
		}
		after(time.Hour)
		if !strings.Contains(p.logs.String(), "invalid token (403): it has run out, or was revoked (put another one there)") {
			t.Error("the log does not say that the token has ended")
		}
		p.vault.set(func() {
			p.vault.tokens[tokenPrefix+"c"] = &fakeToken{born: time.Now(), expires: time.Now().Add(time.Hour), role: fakeRole{ttl: time.Hour, max: 4 * time.Hour}}
			v2(p.vault, "kv/data/app", map[string]any{"a": "healed"})
		})
		p.identity("vault-token", tokenPrefix+"c")
		after(6 * time.Minute)
		if got := p.file("db.env"); got != "a='healed'\n" {
			t.Errorf("file holds %q", got)
		}
		if err := c.terminate(); err != nil {
			t.Error(err)
		}
		p.wantReady() // nothing it lives on was revoked
		if n := count(p.vault.taken(), callEnd); n != 0 {
			t.Errorf("%d revocations", n)
		}
	})
}

// Tokens that an agent is not to have, or cannot work with.
func TestRefusedTokensOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		token *fakeToken
		want  string
	}{
		"root":          {&fakeToken{policies: []string{"root"}}, "it is a root token, which no pod may have"},
		"few uses":      {&fakeToken{role: fakeRole{uses: 5}}, "it is good for a few uses more"},
		"no such":       {nil, "it has run out, or was revoked (put another one there)"},
		"several words": {nil, "holds more than one word"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				id := tokenPrefix + "a"
				if name == "several words" {
					id += " and more"
				}
				p.conf.Vault.Auth = config.Auth{Method: "token", TokenPath: p.identity("vault-token", id)}
				if c.token != nil {
					c.token.expires = time.Now().Add(time.Hour)
					p.vault.tokens[id] = c.token
				}
				run := p.start()
				after(time.Second)
				if _, reason := p.ready(); !strings.Contains(reason, c.want) {
					t.Errorf("got %s, want %s", reason, c.want)
				}
				if !strings.Contains(p.logs.String(), `"someoneMustAct":true`) {
					t.Error("nobody is told to act")
				}
				run.terminate()
			})
		})
	}
}

// A token that may not even be looked up is used for as long as it is good.
func TestTokenOfOthersUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.Vault.Auth = config.Auth{Method: "token", TokenPath: p.identity("vault-token", tokenPrefix+"a")}
		p.vault.tokens[tokenPrefix+"a"] = &fakeToken{expires: time.Now().Add(100 * time.Hour)}
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasPrefix(r.URL.Path, "/v1/auth/token/") && says(403, nil, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)(w, r)
		}
		c := p.start()
		after(0)
		p.wantReady()
		p.vault.taken()
		after(time.Hour)
		if calls := p.vault.taken(); len(calls) > 20 || count(calls, callRead) < 10 {
			t.Errorf("%q", calls)
		}
		c.terminate()
	})
}

// A role of few uses costs a login for as many calls, and nobody notices.
func TestLimitedUses(t *testing.T) {
	for _, uses := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, env("db.env", "kv/app"), env("other.env", "kv/other"), env("v1.env", "old/app"))
			p.vault.role.uses = uses
			c := p.start()
			after(0)
			p.wantReady()
			after(time.Hour)
			calls := p.vault.taken()
			logins := count(calls, callLogin)
			others := len(calls) - logins
			if logins != (others+uses-1)/uses || others < 30 {
				t.Errorf("%d logins for %d calls", logins, others)
			}
			if count(calls, callRenew)+count(calls, "GET auth/token/lookup-self") > 0 || strings.Contains(p.logs.String(), "invalid token") {
				t.Error("uses were spent on the token itself, or not counted")
			}
			p.vault.set(func() { p.vault.cut = true })
			after(time.Hour)
			p.vault.set(func() {
				p.vault.cut = false
				v2(p.vault, "kv/data/app", map[string]any{"a": "healed"})
			})
			after(10 * time.Minute)
			if got := p.file("db.env"); got != "a='healed'\n" {
				t.Errorf("after an outage: file holds %q", got)
			}
			dead := p.killed()
			c.terminate()
			if n := p.vault.good(); n != 0 {
				t.Errorf("%d tokens are left", n)
			}
			p = dead
			c = p.start()
			after(0)
			p.wantReady()
			c.terminate()
		})
	}
}

// Agent and app would take a token's uses from each other.
func TestLimitedUsesAndTokenFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400}
		p.vault.role.uses = 5
		if err := <-p.start().result; err == nil || !strings.Contains(err.Error(), "token_num_uses") {
			t.Errorf("got %v", err)
		}
		if n := p.vault.good(); n != 0 {
			t.Errorf("%d of %d tokens are left", n, p.vault.minted)
		}
	})
}

// Where Vault refuses a renewal for what only a login can tell more of, there is
// one at once; a token of somebody else's is used until its end instead.
func TestRefusedRenewal(t *testing.T) {
	for said, status := range map[string]int{
		"role payments does not exist during renewal":                                   500,
		"policies have changed, not renewing":                                           500,
		"client identity during renewal not matching client identity used during login": 500,
		"failed to match all constraints for this login certificate":                    400,
	} {
		for _, foreign := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"))
				if foreign {
					p.conf.Vault.Auth = config.Auth{Method: "token", TokenPath: p.identity("vault-token", tokenPrefix+"a")}
					p.vault.tokens[tokenPrefix+"a"] = &fakeToken{born: time.Now(), expires: time.Now().Add(time.Hour), role: p.vault.role}
				}
				c := p.start()
				after(time.Second)
				p.vault.set(func() {
					p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
						return r.URL.Path == "/v1/auth/token/renew-self" && says(status, nil, `{"errors":["`+said+`"]}`)(w, r)
					}
				})
				p.vault.taken()
				after(11 * time.Minute)
				calls := p.vault.taken()
				if logins, renewals := count(calls, callLogin), count(calls, callRenew); renewals != 1 || (logins != 1) != foreign {
					t.Errorf("%s, foreign %v: %d logins after %d renewals", said, foreign, logins, renewals)
				}
				after(45 * time.Minute)
				if told := strings.Contains(p.logs.String(), "since it cannot be renewed any more"); told != foreign {
					t.Errorf("%s, foreign %v: told of its end: %v", said, foreign, told)
				}
				p.wantReady()
				c.terminate()
			})
		}
	}
}
