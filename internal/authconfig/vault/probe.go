package vault

import (
	"context"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// Probe logs in at the mount with a ServiceAccount token, as a pod would, and
// forgets the token it gets. A role of batch tokens leaves nothing in Vault.
func (c *Client) Probe(ctx context.Context, role string, jwt sealed.Value[string]) error {
	client, err := c.anonymous(c.vault.Namespace)
	if err != nil {
		return err
	}
	shown := &credential{
		doing: fmt.Sprintf("trying a login to %s at auth/%s", c.vault.Address, c.mount),
		about: vaulterr.Login{Method: c.typ, Role: role, Settings: vaulterr.Settings{Audience: "the one of the probe", Mount: "mount.path"}},
	}
	shown.jwt(role, jwt)
	path, started := "auth/"+c.mount+"/login", time.Now()
	answer, err := client.Logical().WriteWithContext(ctx, path, shown.body)
	if err != nil {
		e, _ := c.refusal(path, err, shown)
		return e
	}
	s, err := sessionOf(shown.doing, answer, c.vault.Namespace, started)
	if err != nil {
		return err
	}
	c.revoke(ctx, s)
	return nil
}
