// Package reviewer keeps what Vault reviews ServiceAccount tokens with: the five
// choices, the token that two of them need, and its proof.
//
// A mount's config holds one token that cannot be read, and Vault takes any
// nonsense for it. So a new one is asked of the API server, reviews a token of a
// client here, is written with the whole config, and has to carry a login at
// once. If it does not, what was there before is written back.
//
// The reviewer's ServiceAccount is also the client of these logins. What each
// mode needs of Kubernetes, beside authconfig's right to request tokens of it:
//
//	local        Vault's own ServiceAccount: system:auth-delegator
//	client       each client and the reviewer's account: system:auth-delegator
//	long-lived   the reviewer's account: system:auth-delegator; authconfig: get of the Secret
//	short-lived  the reviewer's account: system:auth-delegator; authconfig: create of secrets,
//	             and get and delete of those named in Secrets
//	jwt          nothing
//
// Whoever reviews also needs get of namespaces if roles have a namespace
// selector, and get of serviceaccounts if AliasMetadata is set.
package reviewer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
)

// The modes, by whose token Vault reviews a client's.
const (
	// Local is Vault's own ServiceAccount token: Vault runs in this cluster.
	Local = "local"
	// Client is the client's token itself, which then needs the API server's
	// audience and system:auth-delegator.
	Client = "client"
	// LongLived is the token of a Secret of type service-account-token.
	LongLived = "long-lived"
	// ShortLived is a token that authconfig requests, proves and replaces in time.
	ShortLived = "short-lived"
	// JWT reviews nothing: a mount of type jwt verifies signatures with the
	// cluster's keys, which authconfig keeps there.
	JWT = "jwt"
)

// Modes are all of them.
var Modes = []string{Local, Client, LongLived, ShortLived, JWT}

// MountType is the type of mount that a mode needs.
func MountType(mode string) string {
	if mode == JWT {
		return desired.JWT
	}
	return desired.Kubernetes
}

// ProbeRole is the role that proves a config by a login. It is bound to the
// reviewer's ServiceAccount and grants nothing. No ConfigMap may use its name.
const ProbeRole = "latchkey-probe"

// Secrets are those that short-lived reviewer tokens are bound to by turns.
// Deleting one makes the API server refuse the tokens bound to it.
var Secrets = [2]string{"latchkey-reviewer-a", "latchkey-reviewer-b"}

// Settings are what an operator chooses.
type Settings struct {
	Mode string
	// ServiceAccount (namespace/name) is the reviewer's, and the probe's client.
	ServiceAccount string
	// Secret of type service-account-token, in authconfig's namespace, with
	// LongLived.
	Secret string
	// Life is what is asked for with ShortLived; 0 is an hour. The API server
	// may grant less, and none below 10 minutes.
	Life time.Duration
	// RotateAfter is the age at which a short-lived token is replaced; 0, and
	// more than nine tenths of what was granted, is half of its life.
	RotateAfter time.Duration
	// Host is the API server's URL as Vault reaches it.
	Host string
	// CA is what Vault verifies Host with, as PEM; empty is the cluster's own,
	// and with Local what Vault finds in its pod.
	CA string
	// Audience of the probe's role. With Client it has none.
	Audience string
	// AliasMetadata has Vault copy annotations of ServiceAccounts.
	AliasMetadata bool
	// Discovery has a mount of type jwt fetch the keys itself, if it can.
	Discovery bool
	// KeyGrace is how long a key stays after the API server stopped serving it;
	// 0 is an hour. Several API servers may differ for a while.
	KeyGrace time.Duration
	// Hold asks for a token of this process's own making even where another's is
	// still good: only then can it be written back. It is for a process that
	// stays.
	Hold bool
}

// Target is what the mode wants of the mount, see plan.Target.
type Target struct {
	Type          string
	Config        desired.Fields
	ReviewerToken *bool
	Mark          string
	NewCredential string
	Own           map[string]desired.Role
	// Reviewer replaces the record's.
	Reviewer plan.Reviewer
	// Notes are what a person should know though it is no error.
	Notes []string
}

// Reviewer keeps the credential of one mount. Its methods are for one goroutine.
type Reviewer struct {
	Settings
	namespace, account string // of ServiceAccount

	cluster cluster.API
	vault   vault.API

	held    credential          // proven and in Vault, if this process made it
	doubt   string              // why that may be worthless all the same
	refused refusal             // the last one
	keys    map[string]plan.Key // with JWT: as seen last

	wall func() time.Time // without a monotonic part
}

// New returns a Reviewer that has made nothing yet.
func New(s Settings, c cluster.API, v vault.API) *Reviewer {
	if s.Life == 0 {
		s.Life = time.Hour
	}
	if s.KeyGrace == 0 {
		s.KeyGrace = time.Hour
	}
	r := &Reviewer{Settings: s, cluster: c, vault: v, wall: func() time.Time { return time.Now().UTC().Round(0) }}
	r.namespace, r.account, _ = strings.Cut(s.ServiceAccount, "/")
	return r
}

// Target says what Vault is to hold. It changes nothing.
func (r *Reviewer) Target(ctx context.Context, rec plan.Record) (Target, error) {
	if !slices.Contains(Modes, r.Mode) {
		return Target{}, fmt.Errorf("reviewer mode %q is unknown: allowed are %s", r.Mode, strings.Join(Modes, ", "))
	}
	token := r.Mode == LongLived || r.Mode == ShortLived
	t := Target{Type: MountType(r.Mode), Reviewer: rec.Reviewer, ReviewerToken: &token}
	if r.Mode == JWT {
		t.ReviewerToken = nil
		if r.Audience == "" {
			return Target{}, fmt.Errorf("reviewer mode %s needs an audience: Vault refuses a token that has one where the role names none", r.Mode)
		}
	}
	if !r.Discovery {
		t.Reviewer.NoDiscovery = ""
	}
	var err error
	if t.Config, err = r.config(ctx, &t); err != nil {
		return Target{}, err
	}
	probe := desired.Probe(desired.Defaults{MountType: t.Type, Audience: r.audience()}, r.namespace, r.account)
	t.Own = map[string]desired.Role{ProbeRole: {Fields: probe}}
	if t.NewCredential, err = r.due(ctx, &rec.Reviewer); token && rec.Reviewer.Mode == r.Mode {
		t.Mark = mark(cluster.Secret{Name: rec.Reviewer.Secret, UID: rec.Reviewer.SecretUID})
	}
	return t, err
}

// config asks for what the mode's config is made of.
func (r *Reviewer) config(ctx context.Context, t *Target) (desired.Fields, error) {
	ca := r.CA
	if ca == "" && (r.Mode != Local && r.Mode != JWT || r.Mode == JWT && r.discover(&t.Reviewer)) {
		var err error
		if ca, err = r.cluster.CA(ctx); err != nil {
			return nil, fmt.Errorf("reading the cluster's CA: %w", err)
		}
	}
	if r.Mode != JWT {
		return kubernetesConfig(r.Host, ca, r.Mode != Local, r.AliasMetadata), nil
	}
	issuer, err := r.cluster.Issuer(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer of ServiceAccount tokens: %w", err)
	}
	if r.discover(&t.Reviewer) {
		return discoveryConfig(issuer, ca), nil
	}
	if t.Reviewer.NoDiscovery != "" {
		t.Notes = append(t.Notes, "the cluster's keys are written, since discovery does not work (to have it tried again, turn it off and on): "+t.Reviewer.NoDiscovery)
	}
	if err := r.see(ctx, &t.Reviewer); err != nil {
		return nil, err
	}
	return keysConfig(issuer, t.Reviewer.Keys), nil
}

// due says why the config has to be written although it may not differ.
func (r *Reviewer) due(ctx context.Context, rec *plan.Reviewer) (string, error) {
	if rec.Mode != r.Mode {
		return "no login has proven a config of reviewer mode " + r.Mode + " yet", nil
	}
	if r.Mode != LongLived && r.Mode != ShortLived {
		return "", nil
	}
	found, _, err := r.cluster.FindSecret(ctx, rec.Secret)
	if err != nil {
		return "", fmt.Errorf("reading the reviewer's Secret %s: %w", rec.Secret, err)
	}
	switch {
	case r.Mode == LongLived && rec.Secret != r.Secret:
		return fmt.Sprintf("the reviewer token is to be that of Secret %s", r.Secret), nil
	case r.doubt != "":
		return r.doubt, nil
	case found == nil:
		return fmt.Sprintf("Secret %s is gone, and the reviewer token with it", rec.Secret), nil
	case found.UID != rec.SecretUID:
		return fmt.Sprintf("Secret %s is another, so the reviewer token is dead", rec.Secret), nil
	case r.Mode == LongLived && found.Version != rec.SecretVersion:
		return fmt.Sprintf("Secret %s has changed", rec.Secret), nil
	case r.Mode == LongLived:
		return "", nil
	case r.Hold && r.held.secret.UID != rec.SecretUID:
		return "the reviewer token was made by another process, so this one could not write it back", nil
	case r.dueIn(rec) <= 0:
		return "the reviewer token ends at " + rec.Expires.Format(time.RFC3339), nil
	}
	return "", nil
}

// Doubt says why the token in Vault may be worthless although its Secret is there:
// its ServiceAccount was deleted. It is replaced then.
func (r *Reviewer) Doubt(why string) { r.doubt = why }

// dueIn is how long the recorded short-lived token need not be replaced.
func (r *Reviewer) dueIn(rec *plan.Reviewer) time.Duration {
	if r.held.secret.UID == rec.SecretUID && rec.SecretUID != "" {
		return r.held.rotate - r.age(&r.held)
	}
	return rec.Issued.Add(r.rotateAfter(rec.Expires.Sub(rec.Issued), 0.5)).Sub(r.wall())
}

// age is the greater of what two clocks say: one stands still while a machine
// sleeps, and somebody may set the other back. Neither is the API server's, so
// that it does not matter by how much that one differs.
func (r *Reviewer) age(c *credential) time.Duration {
	return max(time.Since(c.minted), r.wall().Sub(c.mintedWall))
}

func (r *Reviewer) rotateAfter(life time.Duration, fraction float64) time.Duration {
	if r.RotateAfter > 0 && r.RotateAfter <= life*9/10 {
		return r.RotateAfter
	}
	return time.Duration(float64(life) * fraction)
}

// jittered is a fraction of about a half.
func jittered() float64 { return 0.45 + 0.1*rand.Float64() }

// Next is when there is something to do though nothing else happens; zero if
// never.
func (r *Reviewer) Next(rec plan.Record) time.Time {
	var times []time.Time
	if rec.Reviewer.Retired.Secret != "" {
		times = append(times, rec.Reviewer.Retired.Delete)
	}
	if r.Mode == ShortLived && rec.Reviewer.Mode == ShortLived {
		times = append(times, r.wall().Add(r.dueIn(&rec.Reviewer)))
	}
	if r.Mode == JWT {
		for _, k := range rec.Reviewer.Keys {
			if !k.Gone.IsZero() {
				times = append(times, k.Gone.Add(r.KeyGrace))
			}
		}
	}
	if len(times) == 0 {
		return time.Time{}
	}
	// What is past could not be done, and is for the next try.
	now := r.wall()
	if next := slices.MinFunc(times, time.Time.Compare); next.After(now) {
		return next
	}
	return now.Add(time.Minute)
}

// Clean deletes the Secret of the token before once its time has come, and with
// it that token.
func (r *Reviewer) Clean(ctx context.Context, rec *plan.Record) error {
	old := rec.Reviewer.Retired
	if old.Secret == "" || r.wall().Before(old.Delete) {
		return nil
	}
	err := r.cluster.DeleteSecret(ctx, cluster.Secret{Name: old.Secret, UID: old.SecretUID})
	if err != nil && r.Mode == ShortLived {
		return fmt.Errorf("deleting Secret %s of the reviewer token before: %w", old.Secret, err)
	}
	// In another mode authconfig may have no right to it any more. This is said
	// once.
	rec.Reviewer.Retired = plan.RetiredSecret{}
	if err != nil {
		return fmt.Errorf("deleting Secret %s, which is not used in reviewer mode %s; delete it by hand: %w", old.Secret, r.Mode, err)
	}
	return nil
}

// Screen takes out the roles that the mode cannot serve, each as a problem.
func (r *Reviewer) Screen(ctx context.Context, roles desired.Roles) (desired.Roles, error) {
	if r.Mode != Client {
		return roles, nil
	}
	issuer := "" // asked for where a role names an audience
	for _, role := range roles.Roles {
		if a, _ := role.Fields["audience"].(string); a != "" && issuer == "" {
			var err error
			if issuer, err = r.cluster.Issuer(ctx); err != nil {
				return roles, fmt.Errorf("reading the issuer of ServiceAccount tokens: %w", err)
			}
		}
	}
	good := make(map[string]desired.Role, len(roles.Roles))
	problems := slices.Clone(roles.Problems)
	for name, role := range roles.Roles {
		bad := clientProblems(role.Fields, issuer)
		for _, text := range bad {
			problems = append(problems, desired.Problem{Source: role.Source, Key: role.Key, Role: name, Text: text})
		}
		if len(bad) == 0 {
			good[name] = role
		}
	}
	slices.SortStableFunc(problems[len(roles.Problems):], func(a, b desired.Problem) int { return strings.Compare(a.Role, b.Role) })
	roles.Roles, roles.Problems = good, problems
	return roles, nil
}

func clientProblems(f desired.Fields, issuer string) (bad []string) {
	if a, _ := f["audience"].(string); a != "" && a != issuer {
		bad = append(bad, fmt.Sprintf("audience: %q is not the API server's own (%q): with reviewer mode client Vault shows the client's own token to the API server, "+
			"which takes no other; leave it out, or choose another reviewer mode", a, issuer))
	}
	if s, _ := f["bound_service_account_namespace_selector"].(string); s != "" {
		bad = append(bad, "bound_service_account_namespace_selector: with reviewer mode client Vault has no token to read namespaces with; "+
			"name the namespaces, or choose another reviewer mode")
	}
	return bad
}
