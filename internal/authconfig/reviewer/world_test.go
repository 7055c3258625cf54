package reviewer

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

const (
	goodHost = "https://api.test:6443"
	issuer   = "https://issuer.test"
	account  = "latchkey/latchkey-reviewer"
)

var (
	goodCA     = block("CERTIFICATE", "one")
	key1, key2 = block("PUBLIC KEY", "1"), block("PUBLIC KEY", "2")
)

func block(typ, text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: []byte(text)}))
}

// world is an API server and a Vault with one mount that believe each other no
// more than real ones do.
type world struct {
	t *testing.T

	secrets   map[string]cluster.Secret
	stored    map[string]string // tokens that Secrets hold, by name
	tokens    map[string]token
	made      int
	granted   time.Duration // at most; 0 is what is asked for
	ca        string
	keys      map[string]string
	delegator bool // the reviewer's account is one

	inCluster bool // Vault
	discovery bool // Vault can
	config    desired.Fields
	jwt, mark string // in config
	writes    int

	// fail is asked before each call, by its name, and has it fail.
	fail func(call string) error
	// after is called when each call has had its effect.
	after func(call string)
}

type token struct {
	account, audience, secret, key string
	expires                        time.Time
}

func newWorld(t *testing.T) *world {
	return &world{t: t, secrets: map[string]cluster.Secret{}, stored: map[string]string{}, tokens: map[string]token{},
		ca: goodCA, keys: map[string]string{"k1": key1}, delegator: true}
}

var (
	_ cluster.API = (*world)(nil)
	_ vault.API   = (*world)(nil)
)

// call is one call to either edge.
func (w *world) call(name string, effect func() error) error {
	if w.fail != nil {
		if err := w.fail(name); err != nil {
			return err
		}
	}
	err := effect()
	if w.after != nil {
		w.after(name)
	}
	return err
}

func (w *world) newToken(account, audience, secret string, life time.Duration) string {
	w.made++
	jwt := fmt.Sprintf("secret-jwt-%d", w.made)
	w.tokens[jwt] = token{account, audience, secret, slices.Max(slices.Collect(maps.Keys(w.keys))), time.Now().Add(life)}
	return jwt
}

// honours is what the API server makes of a token.
func (w *world) honours(jwt, audience string) bool {
	t, ok := w.tokens[jwt]
	if !ok || !time.Now().Before(t.expires) || t.audience != audience {
		return false
	}
	alive := t.secret == ""
	for _, s := range w.secrets {
		alive = alive || s.UID == t.secret
	}
	return alive
}

// login is what the mount makes of a client's token.
func (w *world) login(client string, audience string) error {
	c := w.config
	if c == nil {
		return errors.New("500 could not load backend configuration")
	}
	if _, isJWT := c["bound_issuer"]; isJWT {
		signed := slices.Contains(c["jwt_validation_pubkeys"].([]string), w.keys[w.tokens[client].key])
		if t := w.tokens[client]; t.audience != audience || !signed && !(c["oidc_discovery_url"] == issuer && w.discovery) {
			return errors.New("400 error validating token")
		}
		return nil
	}
	local := c["disable_local_ca_jwt"] == false && w.inCluster
	reaches := c["kubernetes_host"] == goodHost && (c["kubernetes_ca_cert"] == w.ca || local && c["kubernetes_ca_cert"] == "")
	reviews := w.delegator && w.honours(w.jwt, "")
	if w.jwt == "" {
		reviews = local || w.delegator && w.honours(client, "")
	}
	if !reaches || !reviews || !w.honours(client, audience) {
		return errors.New("403 permission denied")
	}
	return nil
}

// pod tries a login as a pod does it.
func (w *world) pod(audience string) error {
	return w.login(w.newToken("shop/app", audience, "", time.Minute), audience)
}

func (w *world) Sources(context.Context, []desired.Source) ([]desired.ConfigMap, error) {
	panic("not for the reviewer")
}
func (w *world) Record(context.Context) (plan.Record, error)   { panic("not for the reviewer") }
func (w *world) SaveRecord(context.Context, plan.Record) error { panic("not for the reviewer") }

func (w *world) CA(context.Context) (ca string, err error) {
	return w.ca, w.call("CA", func() error { return nil })
}

func (w *world) Keys(context.Context) (map[string]string, error) {
	return maps.Clone(w.keys), w.call("Keys", func() error { return nil })
}

func (w *world) Issuer(context.Context) (string, error) {
	return issuer, w.call("Issuer", func() error { return nil })
}

func (w *world) Token(_ context.Context, of, audience string, life time.Duration, bound *cluster.Secret) (made cluster.Token, err error) {
	name, secret := "Token of a client", ""
	if bound != nil {
		name, secret = "Token", bound.UID
	}
	return made, w.call(name, func() error {
		if of != account {
			return fmt.Errorf("no ServiceAccount %s", of)
		}
		if bound != nil && w.secrets[bound.Name].UID != bound.UID {
			return errors.New("409 the Secret is another")
		}
		if w.granted > 0 && bound != nil {
			life = min(life, w.granted)
		}
		made = cluster.Token{JWT: sealed.Of(w.newToken(of, audience, secret, life)), Issued: time.Now(), Expires: time.Now().Add(life)}
		return nil
	})
}

func (w *world) Review(_ context.Context, reviewer, client sealed.Value[string], audience string) error {
	return w.call("Review", func() error {
		if !w.delegator || !w.honours(reviewer.Reveal(), "") {
			return errors.New("the reviewer may not")
		}
		if !w.honours(client.Reveal(), audience) {
			return errors.New("the client's token is not good")
		}
		return nil
	})
}

func (w *world) Secret(_ context.Context, name string, fresh bool) (s cluster.Secret, err error) {
	return s, w.call("Secret", func() error {
		if found, ok := w.secrets[name]; ok && !fresh {
			s = found
			return nil
		}
		w.made++
		s = cluster.Secret{Name: name, UID: fmt.Sprint("uid-", w.made), Type: "Opaque"}
		w.secrets[name] = s
		return nil
	})
}

func (w *world) FindSecret(_ context.Context, name string) (found *cluster.Secret, jwt sealed.Value[string], err error) {
	return found, jwt, w.call("FindSecret", func() error {
		if s, ok := w.secrets[name]; ok {
			found, jwt = &s, sealed.Of(w.stored[name])
		}
		return nil
	})
}

func (w *world) DeleteSecret(_ context.Context, s cluster.Secret) error {
	return w.call("DeleteSecret", func() error {
		if w.secrets[s.Name].UID == s.UID {
			delete(w.secrets, s.Name)
		}
		return nil
	})
}

func (w *world) Observe(context.Context) (plan.Observed, error) { panic("not for the reviewer") }
func (w *world) Enable(context.Context, string, plan.Tune) (string, error) {
	panic("not for the reviewer")
}
func (w *world) Tune(context.Context, plan.Tune) error { panic("not for the reviewer") }
func (w *world) WriteRole(context.Context, string, desired.Fields, desired.Fields) error {
	panic("not for the reviewer")
}
func (w *world) DeleteRole(context.Context, string) error { panic("not for the reviewer") }

func (w *world) WriteConfig(ctx context.Context, config desired.Fields, jwt sealed.Value[string]) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.call("WriteConfig", func() error {
		if url, _ := config["oidc_discovery_url"].(string); url != "" && !w.discovery {
			return errors.New("400 error checking oidc discovery URL")
		}
		typ := desired.Kubernetes
		if _, isJWT := config["bound_issuer"]; isJWT {
			typ = desired.JWT
		}
		w.config, w.mark, w.jwt = desired.CanonicalConfig(typ, config), plan.Mark(config), jwt.Reveal()
		w.writes++
		return nil
	})
}

func (w *world) Probe(ctx context.Context, role string, jwt sealed.Value[string]) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.call("Probe", func() error {
		if role != ProbeRole {
			return fmt.Errorf("400 invalid role name %q", role)
		}
		return w.login(jwt.Reveal(), w.tokens[jwt.Reveal()].audience)
	})
}

// live are the names of the pair's Secrets that are there.
func (w *world) live() (names []string) {
	for _, name := range Secrets {
		if _, ok := w.secrets[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// process is one that keeps the mount, with what it noted.
type process struct {
	w *world
	r *Reviewer
	// rec is the record in the cluster.
	rec plan.Record
}

func (w *world) start(s Settings, rec plan.Record) *process {
	if s.ServiceAccount == "" {
		s.ServiceAccount = account
	}
	if s.Host == "" {
		s.Host = goodHost
	}
	return &process{w, New(s, w, w), rec}
}

// settings of a process that stays.
func settings(mode string) Settings {
	s := Settings{Mode: mode, Audience: "vault", Hold: true}
	if mode == LongLived {
		s.Secret = "reviewer-token"
	}
	if mode == Client {
		s.Audience = ""
	}
	return s
}

// reconcile is one round, of which only the config is of interest here. Its
// record is stored as package apply does it: after the write, and at the end.
func (p *process) reconcile() error {
	ctx := p.w.t.Context()
	t, err := p.r.Target(ctx, p.rec)
	if err != nil {
		return err
	}
	rec := p.rec.Clone()
	rec.Reviewer = t.Reviewer
	if t.NewCredential != "" || t.Mark != "" && t.Mark != p.w.mark || !reflect.DeepEqual(p.w.config, t.Config) || t.ReviewerToken != nil && *t.ReviewerToken != (p.w.jwt != "") {
		err = p.r.Write(ctx, maps.Clone(p.w.config), t.Config, &rec)
		p.rec = rec.Clone()
	}
	err = errors.Join(err, p.r.Clean(ctx, &rec))
	p.rec = rec.Clone()
	return err
}

func (p *process) must() {
	p.w.t.Helper()
	if err := p.reconcile(); err != nil {
		p.w.t.Fatal(err)
	}
}

// untilNext waits as long as there is nothing to do.
func (p *process) untilNext() {
	p.w.t.Helper()
	next := p.r.Next(p.rec)
	if next.IsZero() {
		p.w.t.Fatal("nothing is to be done any more")
	}
	time.Sleep(time.Until(next))
}

// wantError checks that err says all of these and no token.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
	if strings.Contains(err.Error(), "secret-jwt") {
		t.Errorf("the error holds a token: %v", err)
	}
}

// failing has calls of a name fail.
func failing(names ...string) func(string) error {
	return func(call string) error {
		if slices.Contains(names, call) {
			return errors.New("503 " + call + " is down")
		}
		return nil
	}
}
