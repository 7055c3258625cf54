package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// maxRenewInterval bounds the time between renewals, so that a token that was
// revoked, or a role that was deleted, does not stay unnoticed for long.
const maxRenewInterval = 10 * time.Minute

// How long a lasting "permission denied" is borne before the agent logs in
// again, since policies that are added to a role reach only new tokens. The
// time doubles with each login that did not help.
const (
	firstPatience   = 10 * time.Minute
	longestPatience = 24 * time.Hour
)

// session is one Vault token in use.
type session struct {
	life
	token sealed.Value[string]
	// dead means that Vault said that the token is not valid any more.
	dead bool

	secrets *api.Client // in the secrets' namespace
	self    *api.Client // in the login's namespace: tokens are renewed and revoked there
	meter   *useMeter   // counts the uses of a token with few; else nil

	// due is when the token is to be looked after, drawn anew each time: by a
	// renewal where it can be renewed, and by another login elsewhere.
	due time.Time
	// heard is when Vault last said that the token is good, asked for nothing else.
	heard time.Time
}

// life is what is known of a token's life. It has a type of its own because it
// is kept across restarts: where a session itself is encoded, or handed to a
// generic function, the linker keeps every exported method of the API's client,
// half a megabyte of them.
type life struct {
	// Batch tokens can be neither renewed nor revoked.
	Batch     bool
	Renewable bool
	// Foreign is a token that somebody else keeps, so that it is not revoked.
	Foreign bool `json:",omitzero"`
	// Uses is how many calls can be made with it at the login; 0 is any number.
	Uses int `json:",omitzero"`
	// TTL is the longest time that the token was granted at once, at login or
	// by a renewal. Zero is a token that never ends.
	TTL time.Duration
	// Accessor names the token to whoever may look after it.
	Accessor string
	LoggedIn time.Time
	Granted  time.Time // of the login or the last renewal
	Expires  time.Time
	// Patience is how long a lasting denial is borne; zero is firstPatience.
	Patience time.Duration
}

func (s *life) patience() time.Duration { return max(s.Patience, firstPatience) }

// over reports whether the token has run out.
func (s *life) over() bool { return s.TTL > 0 && time.Now().After(s.Expires) }

// lead is how long before its end a token is replaced.
func (s *life) lead() time.Duration { return lead(s.TTL) }

// plan draws when the token is to be looked after next. Its jitter keeps pods
// that started together apart.
func (s *session) plan() {
	switch {
	case s.TTL == 0:
		s.due = time.Now().Add(never)
	case !s.Renewable:
		s.due = s.Expires.Add(-s.lead() - jitter(s.lead()/2))
	default:
		interval := min(s.TTL*2/3, maxRenewInterval)
		s.due = s.Granted.Add(interval - jitter(interval/10))
	}
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// renew asks for another TTL. Afterwards the session knows whether there will
// be more: a grant that is shorter than the last full one is the token's last.
func (a *Agent) renew(ctx context.Context, s *session) error {
	e, now := &exchange{}, time.Now() // what it takes to answer is not part of what is granted
	answer, err := s.self.Auth().Token().RenewSelfWithContext(watch(ctx, e), 0)
	doing := fmt.Sprintf("renewing the token of %s at %s", a.principal(), a.config.Vault.Address)
	if err != nil {
		p := classify(doing, err, e)
		switch {
		case needsLogin(p.said) && !s.Foreign:
			p.NeedsLogin = true
		case p.Denied, p.status == http.StatusBadRequest, needsLogin(p.said):
			// Without the default policy, or not renewable after all: it lives
			// for as long as it was granted.
			a.log.Debug("token cannot be renewed", "reason", p.Text)
			s.Renewable = false
			s.plan()
			a.save(s)
			return nil
		}
		return p
	}
	if answer == nil || answer.Auth == nil || answer.WrapInfo != nil {
		return &Problem{Text: fmt.Sprintf("%s: answered %d without what was granted", doing, e.status)}
	}
	granted := grant(answer.Auth)
	// Vault counts in whole seconds.
	last := granted < s.TTL-2*time.Second
	s.Granted, s.Expires = now, now.Add(granted)
	s.Renewable = answer.Auth.Renewable && !last
	s.TTL = max(s.TTL, granted)
	s.plan()
	a.save(s)
	a.log.Debug("renewed token", "ttl", granted.String(), "last", last)
	return nil
}

// needsLogin reports whether only a login can tell how things are: the role was
// deleted, and may be back; it has other policies now; or the client certificate
// is not the one of the login, or not one that the role takes any more.
func needsLogin(said string) bool {
	return slices.ContainsFunc([]string{
		"does not exist during renewal",
		"policies have changed",
		"identity during renewal not matching",
		"failed to match all constraints", "no chain matching all constraints",
		"client certificate must be supplied", "invalid certificate or no client certificate",
	}, func(text string) bool { return strings.Contains(said, text) })
}

// unheard reports whether nothing that the agent does would tell it that its
// token was revoked: the token is not renewed, and no entry is read.
func (a *Agent) unheard() bool {
	s := a.session
	return s != nil && s.Uses == 0 && (!s.Renewable || s.TTL == 0) && !slices.ContainsFunc(a.entries, func(e *entry) bool { return e.heard })
}

// lookUp asks whether a token is still good. Where that is not allowed it is
// taken to be.
func (a *Agent) lookUp(ctx context.Context, s *session) error {
	e := &exchange{}
	_, err := s.self.Auth().Token().LookupSelfWithContext(watch(ctx, e))
	if err == nil {
		s.heard = time.Now()
		return nil
	}
	p := classify(fmt.Sprintf("looking up the token of %s at %s", a.principal(), a.config.Vault.Address), err, e)
	switch {
	case p.InvalidToken:
		s.dead = true
		return nil
	case p.Denied:
		s.heard = time.Now()
		return nil
	}
	return p
}

// grant is the life that an answer grants.
func grant(auth *api.SecretAuth) time.Duration { return seconds(auth.LeaseDuration) }

// seconds is a number of an answer as a life. What is no life at all is none,
// and what would overflow a duration is ten years.
func seconds(n int) time.Duration {
	return time.Duration(min(max(n, 0), int(never/time.Second))) * time.Second
}

// revocable reports whether the token is the agent's to revoke, and can be.
func (s *session) revocable() bool { return !s.Batch && !s.Foreign }

// revoke makes one try. A token that is invalid already is a success.
func (s *session) revoke(ctx context.Context) error {
	if !s.revocable() || s.meter != nil && s.meter.spent() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	e := &exchange{}
	if err := s.self.Auth().Token().RevokeSelfWithContext(watch(ctx, e), ""); err != nil {
		if p := classify("revoking a token", err, e); !p.InvalidToken {
			return p
		}
	}
	return nil
}

// equip gives a session its clients.
func (a *Agent) equip(s *session) (err error) {
	transport := a.transport
	if s.Uses > 0 {
		s.meter = &useMeter{next: a.transport, token: s.token, left: s.Uses, login: func(ctx context.Context) (sealed.Value[string], int, error) {
			s, err := a.authenticate(ctx)
			if err != nil {
				return sealed.Value[string]{}, 0, err
			}
			return s.token, s.Uses, nil
		}}
		transport = s.meter
	}
	if s.secrets, err = newClient(a.config.Vault, transport, a.config.Vault.Namespace, s.token); err != nil {
		return err
	}
	s.self, err = newClient(a.config.Vault, transport, a.loginNamespace(), s.token)
	return err
}

func (a *Agent) loginNamespace() string {
	if ns := a.config.Vault.Auth.Namespace; ns != "" {
		return ns
	}
	return a.config.Vault.Namespace
}

// Names of what the agent keeps in the volume's private part.
const (
	keptToken   = "token.json"
	keptRevoked = "revoked"
	keptStatus  = "status"
	keptTold    = "told" // the set that everyone in config.Agent.Notify was told of
	keptAnswer  = "answer-"
	// keptUnwrapped is the secret ID that was response-wrapped.
	keptUnwrapped = "secret-id.json"
)

// kept is a session as it lies in the private part of the volume.
type kept struct {
	Fingerprint string
	Token       string
	life
}

// fingerprint tells apart what a token is good for: one that was got elsewhere
// or as someone else is not adopted.
func (a *Agent) fingerprint() string {
	v := a.config.Vault
	sum := sha256.Sum256([]byte(strings.Join([]string{v.Address, v.Namespace, a.loginNamespace(), v.Auth.Method, v.Auth.Mount, v.Auth.Role}, "\x00")))
	return hex.EncodeToString(sum[:])
}

// save keeps the token for an agent that is started again. Without it that one
// logs in afresh, so a failure is only logged. Nobody knows by then what is left
// of a token of few uses.
func (a *Agent) save(s *session) {
	if s.Uses > 0 {
		if err := a.volume.RemovePrivate(keptToken); err != nil {
			a.log.Debug("forgetting the token of before", "reason", err)
		}
		return
	}
	data, err := json.Marshal(kept{a.fingerprint(), s.token.Reveal(), s.life})
	if err == nil {
		err = a.volume.WritePrivate(keptToken, data)
	}
	if err != nil {
		a.log.Warn("keeping the token for a restart", "reason", err)
	}
}

// remembered returns the session of an earlier run, or nil.
func (a *Agent) remembered() *session {
	data, err := a.volume.ReadPrivate(keptToken)
	if err != nil {
		return nil
	}
	var k kept
	if json.Unmarshal(data, &k) != nil || k.Fingerprint != a.fingerprint() || k.Token == "" {
		return nil
	}
	if k.TTL > 0 && time.Until(k.Expires) < time.Second {
		return nil
	}
	return &session{life: k.life, token: sealed.Of(k.Token)}
}
