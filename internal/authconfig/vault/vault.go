// Package vault is authconfig's edge to Vault: its own login, and the few calls
// that its published policy allows.
package vault

import (
	"context"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// API is what authconfig asks of Vault about one mount. Its errors name the path
// and, where Vault denies it, the line that the policy lacks.
type API interface {
	// Observe reads the mount, its config and all its roles. With a RolesError
	// everything but the roles is there.
	Observe(ctx context.Context) (plan.Observed, error)
	// Enable makes the mount and returns its accessor.
	Enable(ctx context.Context, typ string, tune plan.Tune) (accessor string, err error)
	Tune(ctx context.Context, tune plan.Tune) error
	// WriteConfig writes the config whole. The token is left out if it is empty.
	// That Vault does not know one of the fields is an error.
	WriteConfig(ctx context.Context, config desired.Fields, reviewerToken sealed.Value[string]) error
	// WriteRole writes a role. That Vault does not know one of the fields is an
	// error, and undone: before is written back, or the role deleted where it is
	// nil.
	WriteRole(ctx context.Context, name string, before, after desired.Fields) error
	DeleteRole(ctx context.Context, name string) error
	// Probe logs in at the mount with a ServiceAccount token, as a pod would, and
	// forgets the token it gets.
	Probe(ctx context.Context, role string, jwt sealed.Value[string]) error
}
