package vault

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// lockoutRest is how long IDs that Vault refused are not shown again: five wrong
// logins within a quarter of an hour lock the role ID out (Vault's user lockout,
// its defaults).
const lockoutRest = 5 * time.Minute

// identifiers are what method approle remembers of its files.
type identifiers struct {
	// wrapping is the wrapping token that was exchanged last, and secret what was
	// in it: that is possible once.
	wrapping, secret sealed.Value[string]
	// refused are the IDs that Vault refused last, until when they are not shown
	// again, and why.
	refused [sha256.Size]byte
	until   time.Time
	why     error
}

func digest(ids []sealed.Value[string]) [sha256.Size]byte {
	var all strings.Builder
	for _, id := range ids {
		all.WriteString(id.Reveal() + "\x00")
	}
	return sha256.Sum256([]byte(all.String()))
}

// refuse remembers that Vault refused these.
func (i *identifiers) refuse(ids []sealed.Value[string], why error) {
	i.refused, i.until, i.why = digest(ids), time.Now().Add(lockoutRest), why
}

// showIDs shows the role ID and, where there is one, the secret ID, unwrapped.
func (c *Client) showIDs(ctx context.Context, shown *credential) error {
	auth := c.vault.Auth
	shown.doing += " with the role ID in " + auth.RoleIDPath
	role, err := readWord(auth.RoleIDPath)
	if err != nil {
		return fmt.Errorf("%s: reading the role ID: %w", shown.doing, err)
	}
	shown.body, shown.secrets = map[string]any{"role_id": role.Reveal()}, []sealed.Value[string]{role}
	if auth.SecretIDPath != "" {
		secret, err := readWord(auth.SecretIDPath)
		if err != nil {
			return fmt.Errorf("%s: reading the secret ID: %w", shown.doing, err)
		}
		if auth.SecretIDWrappingPath != "" {
			if secret, err = c.unwrap(ctx, secret); err != nil {
				return err
			}
		}
		shown.body["secret_id"] = secret.Reveal()
		shown.secrets = append(shown.secrets, secret)
	}
	if i := &c.ids; i.why != nil && i.refused == digest(shown.secrets) && time.Now().Before(i.until) {
		return fmt.Errorf("%w; not tried again before %s, so that the role ID is not locked out", i.why, i.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// unwrap exchanges a wrapping token for the secret ID in it, having made sure
// that Vault wrapped a secret ID at the path that it should have: whoever read
// another one may have wrapped something again, to go unnoticed.
func (c *Client) unwrap(ctx context.Context, wrapping sealed.Value[string]) (none sealed.Value[string], err error) {
	auth := c.vault.Auth
	if c.ids.wrapping.Reveal() == wrapping.Reveal() { // never empty
		return c.ids.secret, nil
	}
	client, err := c.anonymous(loginNamespace(c.vault))
	if err != nil {
		return none, err
	}
	doing := "looking up the wrapping token in " + auth.SecretIDPath
	info, err := client.Logical().WriteWithContext(ctx, "sys/wrapping/lookup", map[string]any{"token": wrapping.Reveal()})
	if err != nil {
		return none, judgeWrapping(c.failure(doing, "sys/wrapping/lookup", err, wrapping))
	}
	if info == nil || info.Data == nil {
		return none, &Error{Doing: doing, Said: errNoData.Error(), Remedy: between}
	}
	if made, _ := info.Data["creation_path"].(string); made != auth.SecretIDWrappingPath {
		return none, &Error{Doing: doing, Said: fmt.Sprintf("it was made at %q and not at %q, so it is not used", made, auth.SecretIDWrappingPath), Remedy: "somebody may have exchanged it: find out who, and put another one there"}
	}

	doing = "unwrapping the secret ID in " + auth.SecretIDPath
	client.SetToken(wrapping.Reveal())
	answer, err := client.Logical().UnwrapWithContext(ctx, "")
	if err != nil {
		return none, judgeWrapping(c.failure(doing, "sys/wrapping/unwrap", err, wrapping))
	}
	id := ""
	if answer != nil {
		id, _ = answer.Data["secret_id"].(string)
	}
	if id == "" {
		return none, &Error{Doing: doing, Said: "what was wrapped is no secret ID", Remedy: "wrap the answer of " + auth.SecretIDWrappingPath}
	}
	c.ids.wrapping, c.ids.secret = wrapping, sealed.Of(id)
	c.log.Info("unwrapped the secret ID", "file", auth.SecretIDPath)
	return c.ids.secret, nil
}

// judgeWrapping adds what a refused wrapping token may come from. Vault tells one
// that was used from one that ran out as little as from one that never was.
func judgeWrapping(e *Error) *Error {
	if e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden {
		e.Remedy = "it is no wrapping token, has run out, or has been used: unless that was here, treat the secret ID as stolen and destroy it; put another wrapping token there"
	}
	return e
}
