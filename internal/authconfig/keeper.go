package authconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
)

// Cluster is what is asked of Kubernetes.
type Cluster interface {
	cluster.API
	// PlanObjects compares objects with what is there, ApplyObject does one of its
	// steps.
	PlanObjects(ctx context.Context, want cluster.Objects) ([]plan.Step, []plan.Refusal, error)
	ApplyObject(ctx context.Context, s plan.Step) error
}

// Keeper keeps one mount as its configuration and the cluster want it. Its
// methods are for one goroutine.
type Keeper struct {
	config    *Config
	namespace string // authconfig's own
	cluster   Cluster
	vault     vault.API
	reviewer  *reviewer.Reviewer

	stored plan.Record // as known last
}

// NewKeeper returns a Keeper for authconfig's namespace. host is the API server's
// URL as Vault reaches it. Stays says that this process is there for long, and
// so makes a reviewer token of its own.
func NewKeeper(c *Config, namespace, host string, stays bool, k Cluster, v vault.API) *Keeper {
	return &Keeper{config: c, namespace: namespace, cluster: k, vault: v, reviewer: reviewer.New(reviewer.Settings{
		Mode:           c.Reviewer.Mode,
		ServiceAccount: namespace + "/" + c.Reviewer.ServiceAccount,
		Secret:         c.Reviewer.Secret,
		Life:           time.Duration(c.Reviewer.Life),
		RotateAfter:    time.Duration(c.Reviewer.RotateAfter),
		Host:           cmp.Or(c.Kubernetes.Host, host),
		CA:             c.Kubernetes.CA,
		Audience:       c.Audience,
		AliasMetadata:  c.Reviewer.AliasMetadata,
		Discovery:      c.Reviewer.Discovery,
		Hold:           stays,
	}, k, v)}
}

// begin makes the ConfigMap with the record where there is none yet: what is wrong
// is told in Events about it, which nobody finds while it is not there.
func (k *Keeper) begin(ctx context.Context) {
	stored, err := k.cluster.Record(ctx)
	if err == nil {
		err = k.cluster.SaveRecord(ctx, stored)
	}
	_ = err // the first round fails likewise, and says so
}

// MountType is the type of the mount that the configuration asks for.
func (c *Config) MountType() string {
	return reviewer.MountType(c.Reviewer.Mode)
}

// Look is what there is to do.
type Look struct {
	Plan plan.Plan
	// Notes are what a person should know though it is no error.
	Notes []string
	// Record is the one that is stored.
	Record plan.Record
	// Token says that the config is to hold a reviewer token: each write of it brings one.
	Token bool
	// Roles is how many roles are wanted and good.
	Roles int
	// RolesErr is why those in Vault are not known, and so left alone.
	RolesErr error
}

// Look compares what is wanted with what is there. It changes nothing, and reads
// each path of Vault once.
func (k *Keeper) Look(ctx context.Context) (*Look, error) {
	stored, err := k.cluster.Record(ctx)
	if err != nil {
		return nil, err
	}
	k.stored = stored
	sources, err := k.cluster.Sources(ctx, k.config.Sources)
	if err != nil {
		return nil, err
	}
	review, err := k.reviewer.Target(ctx, stored)
	if err != nil {
		return nil, err
	}
	roles := desired.Parse(sources, desired.Defaults{MountType: review.Type, Audience: k.config.Audience, Reserved: []string{reviewer.ProbeRole}})
	if roles, err = k.reviewer.Screen(ctx, roles); err != nil {
		return nil, err
	}
	steps, refused, err := k.cluster.PlanObjects(ctx, k.objects())
	if err != nil {
		return nil, err
	}
	observed, err := k.vault.Observe(ctx)
	if err != nil && !errors.As(err, new(vault.RolesError)) {
		return nil, err
	}
	target := plan.Target{
		Mount:         vault.MountPath(k.config.Mount.Path),
		Tune:          k.config.Mount.Tune(),
		Type:          review.Type,
		Config:        review.Config,
		ReviewerToken: review.ReviewerToken,
		Mark:          review.Mark,
		NewCredential: review.NewCredential,
		Roles:         roles,
		Own:           review.Own,
		Adopt:         k.config.Mount.Adopt,
	}
	for _, s := range k.config.Sources {
		target.Sources = append(target.Sources, s.String())
	}
	known := stored.Clone()
	known.Reviewer = review.Reviewer
	look := &Look{Plan: plan.Compute(target, observed, known), Notes: review.Notes, Record: stored, Token: review.ReviewerToken != nil && *review.ReviewerToken, Roles: len(roles.Roles), RolesErr: err}
	look.Plan.Add(steps, refused)
	return look, nil
}

// objects are what is wanted in the cluster.
func (k *Keeper) objects() cluster.Objects {
	r := k.config.Reviewer
	o := cluster.Objects{LongLived: cmp.Or(r.Secret, r.ServiceAccount+"-token")}
	if r.Create {
		delegates := r.Mode != reviewer.Local && r.Mode != reviewer.JWT
		o.Accounts = append(o.Accounts, cluster.Account{Namespace: k.namespace, Name: r.ServiceAccount, Delegator: delegates})
		if r.Mode == reviewer.LongLived {
			o.LongLivedFor = r.ServiceAccount
		}
	}
	for _, a := range k.config.ServiceAccounts {
		o.Accounts = append(o.Accounts, cluster.Account{Namespace: a.Namespace, Name: a.Name, Delegator: a.Delegator})
	}
	return o
}

// Round is what became of one look.
type Round struct {
	// Look is nil where not even that was possible.
	*Look
	// Results are the steps that were tried.
	Results []apply.Result
	// Record is the one that is stored now.
	Record plan.Record
	// Next is when to look again though nothing happens before; zero for never.
	Next time.Time
	// Err is everything that failed.
	Err error
}

// Complete reports whether everything that is wanted is so now.
func (r *Round) Complete() bool {
	return r.Err == nil && len(r.Plan.Refused) == 0 && len(r.Plan.Problems) == 0
}

// onlyRolesFailed reports whether all that failed are roles of ConfigMaps: what
// pods log in with is as it should be.
func (r *Round) onlyRolesFailed() bool {
	failed := false
	for _, done := range r.Results {
		if done.Err == nil {
			continue
		}
		if failed = done.Step.Kind == plan.KindRole && !done.Step.Own(); !failed {
			return false
		}
	}
	return failed
}

// Round looks, and does what there is to do. It ends between two steps when ctx
// is over.
func (k *Keeper) Round(ctx context.Context) *Round {
	look, err := k.Look(ctx)
	if err != nil {
		return &Round{Record: k.stored, Err: err}
	}
	r := &Round{Look: look}
	r.Results, r.Record, r.Err = apply.Run(ctx, look.Plan, apply.Deps{
		Vault: k.vault, Records: k.cluster, Config: k.reviewer, Objects: k.cluster, Stored: look.Record,
	})
	r.Err = errors.Join(look.RolesErr, r.Err, k.clean(ctx, r))
	k.stored = r.Record
	if !look.Plan.RefusesMount() {
		r.Next = k.reviewer.Next(r.Record)
	} // else nothing is done about it before something else happens
	return r
}

// clean removes what a new credential has left over.
func (k *Keeper) clean(ctx context.Context, r *Round) error {
	record := r.Record.Clone()
	failed := k.reviewer.Clean(ctx, &record)
	if record.Equal(&r.Record) {
		return failed
	}
	if err := k.cluster.SaveRecord(ctx, record); err != nil {
		return errors.Join(failed, fmt.Errorf("noting what was cleaned up: %w", err))
	}
	r.Record = record
	return failed
}
