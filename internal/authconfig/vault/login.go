package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/claims"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

const (
	// deniedRest is how long a denied call brings no further login: policies that
	// were added to a role reach new tokens alone, others reach all at once.
	deniedRest = 10 * time.Minute
	// retryRest is how long a token that is to be replaced, but still good, is
	// used after a login that failed.
	retryRest = time.Minute
)

// login is what is known of authconfig's own.
type login struct {
	now *session
	// nextTry and denied are when a login failed or followed a denied call last.
	nextTry, denied time.Time
	ids             identifiers
}

// session is a token.
type session struct {
	value sealed.Value[string]
	// namespace is that of the login, where the token lives.
	namespace string
	// ours says that it came from a login here, and batch that nobody can renew or
	// revoke it.
	ours, batch bool
	// replace and expires are when another is to be had, and when it ends: zero is
	// never.
	replace, expires time.Time
	// renew is when somebody else's is to be renewed; zero is never.
	renew time.Time
}

func (s *session) ended() bool { return !s.expires.IsZero() && !time.Now().Before(s.expires) }

// checkLogin refuses a login that cannot do.
func checkLogin(v config.Vault, mount string) error {
	a := v.Auth
	switch a.Method {
	case config.MethodJWT, config.MethodKubernetes:
		if MountPath(a.Mount) == mount && loginNamespace(v) == strings.Trim(v.Namespace, "/") {
			return fmt.Errorf("vault.auth.mount: auth/%s is the mount that authconfig keeps, and one long outage would lock it out (log in at another mount, such as one of type jwt with the cluster's keys, or with method approle)", mount)
		}
	case config.MethodAppRole, config.MethodToken:
	default:
		return fmt.Errorf("vault.auth.method: %q (jwt, approle, token, kubernetes)", a.Method)
	}
	return nil
}

func loginNamespace(v config.Vault) string {
	if v.Auth.Namespace != "" {
		return strings.Trim(v.Auth.Namespace, "/")
	}
	return strings.Trim(v.Namespace, "/")
}

// token returns one that is good as far as is known here.
func (c *Client) token(ctx context.Context) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vault.Auth.Method == config.MethodToken {
		return c.takeToken(ctx)
	}
	old := c.now
	if old != nil && !old.ended() && (old.replace.IsZero() || time.Now().Before(old.replace) || time.Now().Before(c.nextTry)) {
		return old, nil
	}
	fresh, err := c.logIn(ctx)
	switch {
	case err == nil && old != nil && !old.ended():
		c.revoke(ctx, old)
	case err != nil && old != nil && !old.ended():
		c.nextTry = time.Now().Add(retryRest)
		c.log.Warn("keeping the token of before, which ends soon", "reason", err, "expires", old.expires)
		return old, nil
	}
	return fresh, err
}

// replace brings another token than the one that a call was refused for, or nil
// where that would not help. Others may have replaced it already.
func (c *Client) replace(ctx context.Context, used *session, refused *Error) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && c.now != used {
		return c.now, nil
	}
	if c.vault.Auth.Method == config.MethodToken {
		if !refused.spent() {
			return nil, nil
		}
		c.now = nil
		return c.takeToken(ctx)
	}
	if refused.spent() {
		c.now = nil
		return c.logIn(ctx)
	}
	if time.Since(c.denied) < deniedRest {
		return nil, nil
	}
	c.denied = time.Now()
	fresh, err := c.logIn(ctx)
	if err != nil {
		// What was refused says more, and the token is as good as it was.
		c.log.Warn("logging in again for a denied call", "reason", err)
		return nil, nil
	}
	c.revoke(ctx, used)
	return fresh, nil
}

// logIn logs in with what lies in the credentials' files now.
func (c *Client) logIn(ctx context.Context) (*session, error) {
	s, err := c.authenticate(ctx)
	if c.LoggedIn != nil {
		c.LoggedIn(err)
	}
	if err != nil {
		return nil, err
	}
	c.now, c.nextTry = s, time.Time{}
	c.log.Info("logged in to Vault", "address", c.vault.Address, "method", c.vault.Auth.Method, "expires", s.expires)
	return s, nil
}

// ownSettings are those of authconfig's own login.
var ownSettings = vaulterr.Settings{Role: "vault.auth.role", Audience: "vault.auth.audience", Mount: "vault.auth.mount"}

// credential is what one login shows to Vault.
type credential struct {
	doing   string // begins messages
	body    map[string]any
	secrets []sealed.Value[string] // what no message may quote
	about   vaulterr.Login
}

func (c *Client) authenticate(ctx context.Context) (*session, error) {
	shown, err := c.credential(ctx)
	if err != nil {
		return nil, err
	}
	client, err := c.anonymous(loginNamespace(c.vault))
	if err != nil {
		return nil, err
	}
	path, started := "auth/"+MountPath(c.vault.Auth.Mount)+"/login", time.Now()
	answer, err := client.Logical().WriteWithContext(ctx, path, shown.body)
	if err != nil {
		e, act := c.refusal(path, err, shown)
		if act && c.vault.Auth.Method == config.MethodAppRole {
			c.ids.refuse(shown.secrets, e)
		}
		return nil, e
	}
	s, err := sessionOf(shown.doing, answer, loginNamespace(c.vault), started)
	if err != nil {
		return nil, err
	}
	if err := refuseRoot(shown.doing, answer.Auth.Policies); err != nil {
		c.revoke(ctx, s)
		return nil, err
	}
	return s, nil
}

func (c *Client) credential(ctx context.Context) (*credential, error) {
	auth := c.vault.Auth
	shown := &credential{
		doing: fmt.Sprintf("logging in to %s at auth/%s", c.vault.Address, MountPath(auth.Mount)),
		about: vaulterr.Login{Method: auth.Method, Role: auth.Role, Audience: auth.Audience, Settings: ownSettings},
	}
	if auth.Method == config.MethodAppRole {
		return shown, c.showIDs(ctx, shown)
	}
	jwt, err := readWord(auth.TokenPath)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the ServiceAccount token: %w (the kubelet writes it)", shown.doing, err)
	}
	shown.jwt(auth.Role, jwt)
	return shown, nil
}

// jwt shows a ServiceAccount token.
func (s *credential) jwt(role string, jwt sealed.Value[string]) {
	who := claims.Read(jwt.Reveal())
	s.doing += fmt.Sprintf(" with role %q as %s", role, who)
	s.about.Namespace, s.about.ServiceAccount = who.Namespace, who.ServiceAccount
	s.body = map[string]any{"role": role, "jwt": jwt.Reveal()}
	s.secrets = []sealed.Value[string]{jwt}
}

// refusal says why Vault refused a login and what helps, and whether someone must
// act: else it passes by itself.
func (c *Client) refusal(path string, err error, shown *credential) (e *Error, act bool) {
	e = c.failure(shown.doing, path, err, shown.secrets...)
	if e.Status != 0 {
		var remedy string
		if act, remedy = shown.about.Advise(e.Status, e.Said); remedy != "" {
			e.Remedy = remedy
		}
	}
	return e, act
}

// sessionOf is the token that a login answered.
func sessionOf(doing string, answer *api.Secret, namespace string, started time.Time) (*session, error) {
	switch {
	case answer == nil || answer.Auth == nil && answer.WrapInfo == nil:
		return nil, &Error{Doing: doing, Said: "the answer holds no token", Remedy: between}
	case answer.WrapInfo != nil:
		return nil, &Error{Doing: doing, Said: "the answer is wrapped, which nobody asked for", Remedy: between}
	case answer.Auth.MFARequirement != nil:
		return nil, &Error{Doing: doing, Said: "Vault asks for a second factor, which a program has not", Remedy: "take the mount out of the login MFA enforcement"}
	case answer.Auth.ClientToken == "":
		return nil, &Error{Doing: doing, Said: "the answer holds no token", Remedy: between}
	}
	a := answer.Auth
	s := &session{value: sealed.Of(a.ClientToken), namespace: namespace, ours: true, batch: a.Accessor == ""} // Vault gives batch tokens none
	if life := time.Duration(a.LeaseDuration) * time.Second; life > 0 {
		s.replace, s.expires = started.Add(life*2/3), started.Add(life)
	}
	return s, nil
}

// refuseRoot refuses a token that may do everything.
func refuseRoot(doing string, policies []string) error {
	if !slices.Contains(policies, "root") {
		return nil
	}
	return &Error{Doing: doing, Said: "it is a root token, which no program may have", Remedy: "give one with the policy that authconfig policy prints"}
}

// revoke ends a token of ours if that can be: it may not be allowed to.
func (c *Client) revoke(ctx context.Context, s *session) {
	if s == nil || !s.ours || s.batch || s.ended() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	client, err := c.with(s)
	if err == nil {
		err = client.Auth().Token().RevokeSelfWithContext(ctx, "")
	}
	if err != nil {
		c.log.Debug("the token of before is not revoked and runs out by itself", "reason", c.failure("revoking it", "auth/token/revoke-self", err, s.value), "expires", s.expires)
	}
}

// Close revokes authconfig's token, unless it is somebody else's.
func (c *Client) Close(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoke(ctx, c.now)
	c.now = nil
}

// readWord reads a file that holds one word.
func readWord(file string) (none sealed.Value[string], err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return none, err
	}
	word := strings.TrimSpace(string(raw))
	switch {
	case word == "":
		return none, fmt.Errorf("%s is empty", file)
	case strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return none, errors.New(file + " holds more than one word of ASCII")
	}
	return sealed.Of(word), nil
}
