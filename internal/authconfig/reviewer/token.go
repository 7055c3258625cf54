package reviewer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// credential is a reviewer token. The zero one is none.
type credential struct {
	jwt    sealed.Value[string]
	secret cluster.Secret // that it is bound to, or that holds it
	made   bool           // the Secret, for this token

	issued, expires    time.Time     // as the API server says
	minted, mintedWall time.Time     // by our two clocks, see age
	rotate             time.Duration // its age then
}

// mark tells in Vault which token it has: by its Secret.
func mark(s cluster.Secret) string {
	if s.UID == "" {
		return ""
	}
	return "Secret " + s.Name + ", uid " + s.UID
}

// credential gets what the mode reviews with.
func (r *Reviewer) credential(ctx context.Context, rec *plan.Reviewer) (credential, error) {
	switch r.Mode {
	case LongLived:
		return r.stored(ctx)
	case ShortLived:
		return r.mint(ctx, rec)
	}
	return credential{}, nil
}

// stored reads the token of the long-lived Secret.
func (r *Reviewer) stored(ctx context.Context) (credential, error) {
	found, jwt, err := r.cluster.FindSecret(ctx, r.Secret)
	if err != nil {
		return credential{}, fmt.Errorf("reading the reviewer's Secret %s: %w", r.Secret, err)
	}
	if found == nil {
		return credential{}, fmt.Errorf("reviewer mode %s needs Secret %s, and there is none: make one of type kubernetes.io/service-account-token "+
			"with the annotation kubernetes.io/service-account.name: %s", r.Mode, r.Secret, r.account)
	}
	switch wanted := "kubernetes.io/service-account-token"; {
	case found.Type != wanted:
		return credential{}, fmt.Errorf("the reviewer's Secret %s is of type %s and must be of %s", r.Secret, found.Type, wanted)
	case found.Account != r.account:
		return credential{}, fmt.Errorf("the reviewer's Secret %s is for ServiceAccount %q by its annotation kubernetes.io/service-account.name, and must be for %q",
			r.Secret, found.Account, r.account)
	case jwt.Reveal() == "":
		return credential{}, fmt.Errorf("the reviewer's Secret %s holds no token yet: Kubernetes puts one there if ServiceAccount %s exists", r.Secret, r.ServiceAccount)
	}
	return credential{jwt: jwt, secret: *found, minted: time.Now(), mintedWall: r.wall()}, nil
}

// mint requests a token that is bound to a Secret.
func (r *Reviewer) mint(ctx context.Context, rec *plan.Reviewer) (credential, error) {
	secret, made, err := r.bind(ctx, rec)
	if err != nil {
		return credential{}, fmt.Errorf("making a Secret for a reviewer token: %w", err)
	}
	c := credential{secret: secret, made: made, minted: time.Now(), mintedWall: r.wall()}
	token, err := r.cluster.Token(ctx, r.ServiceAccount, "", r.Life, &secret)
	if err != nil {
		return credential{}, errors.Join(fmt.Errorf("requesting a reviewer token: %w", err), r.discard(ctx, c))
	}
	c.jwt, c.issued, c.expires = token.JWT, token.Issued.UTC(), token.Expires.UTC()
	c.rotate = r.rotateAfter(c.expires.Sub(c.issued), jittered())
	return c, nil
}

// bind finds the Secret for the next token: the one of the two that the recorded
// token is not bound to. It is made anew only if it is known that the token in
// Vault is not bound to it. This is not known of one that is there without being
// retired: authconfig may have ended after Vault was written and before this was
// recorded. Then the new token shares it.
func (r *Reviewer) bind(ctx context.Context, rec *plan.Reviewer) (s cluster.Secret, made bool, err error) {
	name := Secrets[0]
	if rec.Mode == ShortLived {
		name = otherSecret(rec.Secret)
	}
	found, _, err := r.cluster.FindSecret(ctx, name)
	if err != nil {
		return s, false, err
	}
	if found != nil && found.UID != rec.Retired.SecretUID {
		s, err = r.cluster.Secret(ctx, name, false)
		return s, false, err
	}
	s, err = r.cluster.Secret(ctx, name, found != nil)
	return s, true, err
}

func otherSecret(name string) string {
	if name == Secrets[0] {
		return Secrets[1]
	}
	return Secrets[0]
}

// discard deletes the Secret of a token that Vault does not have.
func (r *Reviewer) discard(ctx context.Context, c credential) error {
	if !c.made {
		return nil
	}
	if err := r.cluster.DeleteSecret(context.WithoutCancel(ctx), c.secret); err != nil {
		return fmt.Errorf("deleting Secret %s of a token that is not used: %w", c.secret.Name, err)
	}
	return nil
}

// heldIsGood reports whether the proven token of this process is still one that
// can be written back.
func (r *Reviewer) heldIsGood(ctx context.Context, rec *plan.Reviewer) bool {
	if r.held.jwt.Reveal() == "" || r.doubt != "" || r.held.secret.UID != rec.SecretUID {
		return false
	}
	if life := r.held.expires.Sub(r.held.issued); life > 0 && r.age(&r.held) >= life {
		return false
	}
	found, _, err := r.cluster.FindSecret(ctx, r.held.secret.Name)
	return err != nil || found != nil && found.UID == r.held.secret.UID
}

// keep notes that the credential is in Vault and proven, and retires the one
// before.
func (r *Reviewer) keep(ctx context.Context, c credential, rec *plan.Record) {
	before := rec.Reviewer
	rec.Reviewer = plan.Reviewer{
		Mode: r.Mode, Secret: c.secret.Name, SecretUID: c.secret.UID,
		Issued: c.issued, Expires: c.expires, Retired: before.Retired,
	}
	switch r.Mode {
	case LongLived:
		rec.Reviewer.SecretVersion = c.secret.Version
	case JWT:
		rec.Reviewer.Keys, rec.Reviewer.NoDiscovery = before.Keys, before.NoDiscovery
	}
	if old := r.superseded(ctx, c, before); old.UID != "" {
		rec.Reviewer.Retired = plan.RetiredSecret{Secret: old.Name, SecretUID: old.UID, Delete: r.wall().Add(retireGrace)}
	}
	r.held, r.doubt = c, ""
}

// retireGrace is how long the Secret of the token before stays, for the logins
// that are under way.
const retireGrace = time.Minute

// superseded is the Secret of a short-lived token that Vault has no more, or the
// zero one: the other one of the two, as the record may not know of it.
func (r *Reviewer) superseded(ctx context.Context, c credential, before plan.Reviewer) cluster.Secret {
	old := cluster.Secret{Name: before.Secret, UID: before.SecretUID}
	if r.Mode == ShortLived {
		if found, _, err := r.cluster.FindSecret(ctx, otherSecret(c.secret.Name)); err == nil && found != nil {
			old = *found
		}
	}
	if r.Mode != ShortLived && before.Mode != ShortLived || old.UID == c.secret.UID {
		return cluster.Secret{}
	}
	return old
}
