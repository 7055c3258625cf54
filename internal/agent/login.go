package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/kubernetes"

	"github.com/latchkey-dev/latchkey/internal/claims"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// login brings a token that is ready for use.
func (a *Agent) login(ctx context.Context) (*session, error) {
	s, err := a.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	return s, a.equip(s)
}

// authenticate logs in with what lies in the credentials' files now: others
// replace them, so nothing of an earlier login is used again.
func (a *Agent) authenticate(ctx context.Context) (*session, error) {
	if a.config.Vault.Auth.Method == config.MethodToken {
		return a.takeToken(ctx)
	}
	c, err := a.credential(ctx)
	if err != nil {
		return nil, err
	}
	client, err := a.anonymous()
	if err != nil {
		return nil, err
	}
	e, now := &exchange{keepBody: true, hide: c.secrets}, time.Now()
	answer, err := c.login(watch(ctx, e), client)
	if err != nil {
		p := classify(c.doing, err, e)
		p.judgeLogin(c.about)
		if p.Act && p.said != "" && c.about.Method == config.MethodAppRole {
			a.refusedIDs.add(c.secrets, p)
		}
		return nil, p
	}
	switch {
	case answer == nil || answer.Auth == nil && answer.WrapInfo == nil:
		return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without a token", c.doing, e.status)}
	case answer.WrapInfo != nil:
		return nil, &Problem{Text: c.doing + ": answered with a wrapped token that nobody asked for (is something between agent and Vault?)"}
	case answer.Auth.MFARequirement != nil:
		return nil, &Problem{Act: true, Text: c.doing + ": Vault asks for a second factor, which a pod has not (take the mount out of the login MFA enforcement)"}
	case answer.Auth.ClientToken == "":
		return nil, &Problem{Text: c.doing + ": answered with an empty token"}
	}
	// The library's type lacks these two.
	var more struct {
		Auth struct {
			TokenType string `json:"token_type"`
			NumUses   int    `json:"num_uses"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(e.body.Reveal(), &more); err != nil {
		return nil, &Problem{Text: c.doing + ": the answer is no JSON"}
	}
	ttl := grant(answer.Auth)
	s := &session{
		token: sealed.Of(answer.Auth.ClientToken),
		life: life{
			Batch:     more.Auth.TokenType == "batch",
			Renewable: answer.Auth.Renewable && more.Auth.TokenType != "batch" && more.Auth.NumUses == 0,
			Uses:      max(more.Auth.NumUses, 0),
			TTL:       ttl,
			Accessor:  answer.Auth.Accessor,
			LoggedIn:  now,
			Granted:   now,
			Expires:   now.Add(ttl),
		},
	}
	if s.Uses > 0 && a.config.Lends() {
		if err := a.equip(s); err != nil {
			return nil, err
		}
		if err := s.revoke(ctx); err != nil {
			a.log.Debug("the token of limited uses is not revoked", "reason", err)
		}
		return nil, &Problem{Act: true, Text: fmt.Sprintf("%s: the role gives tokens of %d uses, which agent and app would take from each other (set the role's token_num_uses to 0, or lend apps no token)", c.doing, s.Uses)}
	}
	return s, nil
}

// anonymous makes a client without a token, in the login's namespace.
func (a *Agent) anonymous() (*api.Client, error) {
	if err := a.connect(); err != nil {
		return nil, err
	}
	return newClient(a.config.Vault, a.transport, a.loginNamespace(), sealed.Value[string]{})
}

// credential is what one login shows to Vault.
type credential struct {
	doing string // begins messages
	// login is no interface: the linker would keep all methods of what one takes
	// as an argument, and those of the client are half a megabyte.
	login   func(context.Context, *api.Client) (*api.Secret, error)
	secrets []sealed.Value[string] // what no message may quote
	about   vaulterr.Login
}

// plainLogin is the login of a method that the library has none for.
func plainLogin(path string, data map[string]any) func(context.Context, *api.Client) (*api.Secret, error) {
	return func(ctx context.Context, c *api.Client) (*api.Secret, error) {
		return c.Logical().WriteWithContext(ctx, path, data)
	}
}

func (a *Agent) credential(ctx context.Context) (*credential, error) {
	auth := a.config.Vault.Auth
	c := &credential{
		doing: fmt.Sprintf("logging in to %s at auth/%s", a.config.Vault.Address, auth.MountPath()),
		about: vaulterr.Login{Method: auth.Method, Role: auth.Role, Audience: auth.Audience},
	}
	if auth.Role != "" {
		c.doing += fmt.Sprintf(" with role %q", auth.Role)
	}
	switch auth.Method {
	case config.MethodAppRole:
		return c, a.showAppRole(ctx, c)
	case config.MethodCert:
		return c, a.showCertificate(c)
	}
	return c, a.showServiceAccount(c)
}

// showServiceAccount makes the login of methods kubernetes and jwt, which take
// the same.
func (a *Agent) showServiceAccount(c *credential) error {
	auth := a.config.Vault.Auth
	jwt, err := readCredential(auth.TokenPath)
	if err != nil {
		return &Problem{Text: fmt.Sprintf("%s: reading the ServiceAccount token: %v (the kubelet writes it)", c.doing, err)}
	}
	who := claims.Read(jwt.Reveal())
	c.doing += " as " + who.String()
	c.about.Namespace, c.about.ServiceAccount = who.Namespace, who.ServiceAccount
	c.secrets = []sealed.Value[string]{jwt}
	method, err := kubernetes.NewKubernetesAuth(auth.Role, kubernetes.WithMountPath(auth.MountPath()), kubernetes.WithServiceAccountToken(jwt.Reveal()))
	if err != nil {
		return fmt.Errorf("%s: %w", c.doing, err)
	}
	c.login = method.Login
	return nil
}

// readCredential reads a file that holds one word.
func readCredential(file string) (sealed.Value[string], error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return sealed.Value[string]{}, err
	}
	word := strings.TrimSpace(string(raw))
	switch {
	case word == "":
		return sealed.Value[string]{}, fmt.Errorf("%s is empty", file)
	case strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return sealed.Value[string]{}, fmt.Errorf("%s holds more than one word of ASCII", file)
	}
	return sealed.Of(word), nil
}

// judgeLogin adds what the auth method means by its answer and who can remedy
// it.
func (p *Problem) judgeLogin(about vaulterr.Login) {
	if p.said == "" && p.status != http.StatusNotFound {
		return
	}
	act, remedy := about.Advise(p.status, p.said)
	p.Act, p.Denied, p.InvalidToken, p.NeedsLogin = act, false, false, false
	if remedy != "" {
		p.Text += ": " + remedy
	}
}

// principal is whose token it is, for messages.
func (a *Agent) principal() string {
	auth := a.config.Vault.Auth
	switch {
	case auth.Role != "":
		return fmt.Sprintf("role %q", auth.Role)
	case auth.Method == config.MethodToken:
		return "the token in " + auth.TokenPath
	case auth.Method == config.MethodCert:
		return "the certificate role"
	}
	return "the AppRole"
}
