package reviewer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// waits are before each further try of a proof. An API server may not have seen a
// new binding yet, nor a standby of Vault a new config; and Vault says the same of
// a bad reviewer as of an API server that it could not reach for a moment.
var waits = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, time.Second}

// Once Vault's config is written, it is proven or undone whatever becomes of the
// caller: so long each may take.
const (
	proveWithin   = 20 * time.Second
	restoreWithin = 20 * time.Second
)

// Write writes the config with a credential, proves it by a login, and else
// writes back before, which is nil where there was none. The error says which
// step failed, and what Vault holds now. What is known of the credential in
// Vault is in rec then, with an error too.
//
// The role of the probe has to be there already.
func (r *Reviewer) Write(ctx context.Context, before, after desired.Fields, rec *plan.Record) error {
	if !r.refused.is(before, after) {
		return r.write(ctx, before, after, rec)
	}
	// Each try costs pods their logins for as long as it takes. A token is replaced
	// meanwhile where it has to be.
	held := fmt.Errorf("this config is not tried again before %s, since a login was refused with it: %w", r.refused.until.UTC().Format(time.TimeOnly+" UTC"), r.refused.err)
	due, err := r.due(ctx, &rec.Reviewer)
	if err == nil && due != "" {
		err = r.write(ctx, before, before, rec)
	}
	return errors.Join(held, err)
}

// refusal is a config that no login proved, while the one before works.
type refusal struct {
	before, after desired.Fields
	err           error
	until         time.Time
}

// afterRefusal is how long such a config is not tried again.
const afterRefusal = 10 * time.Minute

func (r *refusal) is(before, after desired.Fields) bool {
	return time.Now().Before(r.until) && desired.Equal(before, r.before) && desired.Equal(after, r.after)
}

func (r *Reviewer) write(ctx context.Context, before, after desired.Fields, rec *plan.Record) error {
	c, err := r.credential(ctx, &rec.Reviewer)
	if err != nil {
		return fmt.Errorf("%w; nothing in Vault has changed", err)
	}
	client, err := r.prove(ctx, c)
	if err != nil {
		return errors.Join(fmt.Errorf("%w; nothing in Vault has changed", err), r.discard(ctx, c))
	}
	if url, _ := after["oidc_discovery_url"].(string); url != "" {
		return r.writeDiscovery(ctx, before, after, client, rec)
	}
	if err := r.try(ctx, after, c, client); err != nil {
		return r.restore(ctx, err, before, after, c, client, rec)
	}
	r.keep(ctx, c, rec)
	return nil
}

// prove has the credential review a token of a client, and returns another one
// for the login.
func (r *Reviewer) prove(ctx context.Context, c credential) (client sealed.Value[string], err error) {
	if c.jwt.Reveal() != "" {
		token, err := r.client(ctx)
		if err != nil {
			return client, err
		}
		if err := patiently(ctx, func() error { return r.cluster.Review(ctx, c.jwt, token, r.audience()) }); err != nil {
			return client, fmt.Errorf("reviewing a token with the new reviewer token: %w", err)
		}
	}
	return r.client(ctx)
}

// client is a token such as a pod shows it at login.
func (r *Reviewer) client(ctx context.Context) (sealed.Value[string], error) {
	token, err := r.cluster.Token(ctx, r.ServiceAccount, r.audience(), clientLife, nil)
	if err != nil {
		return sealed.Value[string]{}, fmt.Errorf("requesting a token to log in with: %w", err)
	}
	return token.JWT, nil
}

// clientLife is the least that the API server grants.
const clientLife = 10 * time.Minute

func (r *Reviewer) audience() string {
	if r.Mode == Client {
		return ""
	}
	return r.Audience
}

// try writes a config and logs in with it.
func (r *Reviewer) try(ctx context.Context, config desired.Fields, c credential, client sealed.Value[string]) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proveWithin)
	defer cancel()
	if err := r.vault.WriteConfig(ctx, plan.Marked(config, mark(c.secret)), c.jwt); err != nil {
		return fmt.Errorf("writing the config: %w", err)
	}
	return r.probe(ctx, client)
}

func (r *Reviewer) probe(ctx context.Context, client sealed.Value[string]) error {
	err := patiently(ctx, func() error { return r.vault.Probe(ctx, ProbeRole, client) })
	if err != nil {
		return fmt.Errorf("%w: %w", errUnproven, err)
	}
	return nil
}

var errUnproven = errors.New("proving the config by a login")

// patiently tries a few times, and returns the last error.
func patiently(ctx context.Context, try func() error) error {
	err := try()
	for _, wait := range waits {
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		err = try()
	}
	return err
}

// restore writes the previous config back after a try that failed, as far as its
// token is known, and says in the error what Vault holds now.
func (r *Reviewer) restore(ctx context.Context, failed error, before, after desired.Fields, c credential, client sealed.Value[string], rec *plan.Record) error {
	if before == nil {
		return fmt.Errorf("%w; there was no config to write back", failed)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	previous := c
	switch {
	case r.heldIsGood(ctx, &rec.Reviewer):
		previous = r.held
	case r.Mode == JWT, slices.Contains([]string{Local, Client}, rec.Reviewer.Mode):
		previous = credential{}
	case c.jwt.Reveal() == "":
		return fmt.Errorf("%w; the config before is not written back, since its reviewer token cannot be read from Vault: "+
			"logins may be refused until the cause is remedied, or the reviewer's mode set back", failed)
	}
	same := previous.secret.UID == c.secret.UID
	if same && desired.Equal(before, after) {
		return fmt.Errorf("%w; there is nothing else to write back, so this config stays until the next try", failed)
	}
	if err := r.vault.WriteConfig(ctx, plan.Marked(before, mark(previous.secret)), previous.jwt); err != nil {
		return fmt.Errorf("%w; writing back the config before failed too, so Vault may hold either: %w", failed, err)
	}
	err := r.probe(ctx, client)
	switch {
	case !same:
		err = errors.Join(err, r.discard(ctx, c))
	case err == nil && c.jwt.Reveal() != "":
		r.keep(ctx, c, rec)
	}
	if err != nil {
		return fmt.Errorf("%w; the config before is back, but: %w", failed, err)
	}
	if errors.Is(failed, errUnproven) && !desired.Equal(before, after) {
		r.refused = refusal{before, after, failed, time.Now().Add(afterRefusal)}
	}
	return fmt.Errorf("%w; the config before is back and works", failed)
}

// writeDiscovery has Vault fetch the keys itself. Vault refuses that at once if
// it cannot; then, as where a login shows it, the keys are written.
func (r *Reviewer) writeDiscovery(ctx context.Context, before, after desired.Fields, client sealed.Value[string], rec *plan.Record) error {
	failed := r.try(ctx, after, credential{}, client)
	if failed == nil {
		r.keep(ctx, credential{}, rec)
		return nil
	}
	known := rec.Reviewer
	err := r.see(ctx, &known)
	if err == nil {
		issuer, _ := after["bound_issuer"].(string)
		err = r.try(ctx, keysConfig(issuer, known.Keys), credential{}, client)
	}
	if err != nil {
		err = fmt.Errorf("with discovery, %w; with the cluster's keys instead, %w", failed, err)
		return r.restore(ctx, err, before, after, credential{}, client, rec)
	}
	rec.Reviewer = known
	r.keep(ctx, credential{}, rec)
	rec.Reviewer.NoDiscovery = failed.Error()
	return nil
}
