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
}

// life is what is known of a token's life. It has a type of its own because it
// is kept across restarts: where a session itself is encoded, or handed to a
// generic function, the linker keeps every exported method of the API's client,
// half a megabyte of them.
type life struct {
	// Batch tokens can be neither renewed nor revoked.
	Batch     bool
	Renewable bool
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
func (s *life) lead() time.Duration { return min(5*time.Minute, s.TTL/3) }

// next says when the token must be looked after, and whether by a new login or
// by a renewal. Its jitter keeps pods that started together apart.
func (s *life) next() (at time.Time, login bool) {
	switch {
	case s.TTL == 0:
		return time.Now().Add(365 * 24 * time.Hour), false
	case !s.Renewable:
		return s.Expires.Add(-s.lead() - jitter(s.lead()/2)), true
	default:
		interval := min(s.TTL*2/3, maxRenewInterval)
		return s.Granted.Add(interval - jitter(interval/10)), false
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
	e := &exchange{}
	answer, err := s.self.Auth().Token().RenewSelfWithContext(watch(ctx, e), 0)
	doing := fmt.Sprintf("renewing the token of role %q at %s", a.config.Vault.Auth.Role, a.config.Vault.Address)
	if err != nil {
		p := classify(doing, err, e)
		switch {
		case p.Denied, p.status == http.StatusBadRequest:
			// Without the default policy, or not renewable after all: it lives
			// for as long as it was granted.
			a.log.Debug("token cannot be renewed", "reason", p.Text)
			s.Renewable = false
			a.save(s)
			return nil
		case strings.Contains(p.said, "does not exist during renewal"):
			// The role was deleted: only a login can tell whether it is back.
			p.NeedsLogin = true
		}
		return p
	}
	if answer == nil || answer.Auth == nil || answer.WrapInfo != nil {
		return &Problem{Text: fmt.Sprintf("%s: answered %d without what was granted", doing, e.status)}
	}
	now := time.Now()
	granted := grant(answer.Auth)
	// Vault counts in whole seconds.
	last := granted < s.TTL-2*time.Second
	s.Granted, s.Expires = now, now.Add(granted)
	s.Renewable = answer.Auth.Renewable && !last
	s.TTL = max(s.TTL, granted)
	a.save(s)
	a.log.Debug("renewed token", "ttl", granted.String(), "last", last)
	return nil
}

// unheard reports whether nothing that the agent does would tell it that its
// token was revoked: the token is not renewed, and no entry is read.
func (a *Agent) unheard() bool {
	s := a.session
	return s != nil && (!s.Renewable || s.TTL == 0) && !slices.ContainsFunc(a.entries, func(e *entry) bool { return e.file.Data == nil })
}

// lookUp asks whether a token is still good. Where that is not allowed it is
// taken to be.
func (a *Agent) lookUp(ctx context.Context, s *session) error {
	e := &exchange{}
	_, err := s.self.Auth().Token().LookupSelfWithContext(watch(ctx, e))
	if err == nil {
		return nil
	}
	p := classify(fmt.Sprintf("looking up the token of role %q at %s", a.config.Vault.Auth.Role, a.config.Vault.Address), err, e)
	switch {
	case p.InvalidToken:
		s.dead = true
		return nil
	case p.Denied:
		return nil
	}
	return p
}

// grant is the life that an answer grants. What is no life at all is none,
// and what would overflow a duration is ten years.
func grant(auth *api.SecretAuth) time.Duration {
	const longest = 10 * 365 * 24 * time.Hour
	return time.Duration(min(max(auth.LeaseDuration, 0), int(longest/time.Second))) * time.Second
}

// revoke makes one try. A token that is invalid already is a success.
func (s *session) revoke(ctx context.Context) error {
	if s.Batch {
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
	if s.secrets, err = newClient(a.config.Vault, a.transport, a.config.Vault.Namespace, s.token); err != nil {
		return err
	}
	s.self, err = newClient(a.config.Vault, a.transport, a.loginNamespace(), s.token)
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
	keptWrite   = "write-"
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
// logs in afresh, so a failure is only logged.
func (a *Agent) save(s *session) {
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
