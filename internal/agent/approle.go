package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// showAppRole makes the login of method approle.
func (a *Agent) showAppRole(ctx context.Context, c *credential) error {
	auth := a.config.Vault.Auth
	role, err := readCredential(auth.RoleIDPath)
	if err != nil {
		return &Problem{Act: true, Text: fmt.Sprintf("%s: reading the role ID: %v (does what holds it exist in the pod's namespace, with this key?)", c.doing, err)}
	}
	c.doing += " with the role ID in " + auth.RoleIDPath
	c.secrets = append(c.secrets, role)
	data := map[string]any{"role_id": role.Reveal()}
	if auth.SecretIDPath != "" {
		secret, err := readCredential(auth.SecretIDPath)
		if err != nil {
			return &Problem{Act: true, Text: fmt.Sprintf("%s: reading the secret ID: %v (does what holds it exist in the pod's namespace, with this key?)", c.doing, err)}
		}
		c.secrets = append(c.secrets, secret)
		if auth.SecretIDWrappingPath != "" {
			if secret, err = a.unwrap(ctx, secret); err != nil {
				return err
			}
			c.secrets = append(c.secrets, secret)
		}
		data["secret_id"] = secret.Reveal()
	}
	if p := a.refusedIDs.wait(c.secrets); p != nil {
		return p
	}
	c.login = plainLogin("auth/"+auth.MountPath()+"/login", data)
	return nil
}

// lockoutRest is how long IDs that Vault refused are not shown again: five wrong
// logins within a quarter of an hour lock the role ID out, for every pod that
// has it (Vault's user lockout, its defaults).
const lockoutRest = 5 * time.Minute

// refusedIDs are the IDs of method approle that Vault refused last.
type refusedIDs struct {
	mu    sync.Mutex
	ids   [sha256.Size]byte
	until time.Time
	why   *Problem
}

func digest(secrets []sealed.Value[string]) [sha256.Size]byte {
	var all strings.Builder
	for _, s := range secrets {
		all.WriteString(s.Reveal() + "\x00")
	}
	return sha256.Sum256([]byte(all.String()))
}

// wait is why these are not shown to Vault now, or nil.
func (r *refusedIDs) wait(secrets []sealed.Value[string]) *Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == nil || r.ids != digest(secrets) || !time.Now().Before(r.until) {
		return nil
	}
	return r.why
}

// add remembers why these were refused.
func (r *refusedIDs) add(secrets []sealed.Value[string], why *Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids, r.until, r.why = digest(secrets), time.Now().Add(lockoutRest+jitter(lockoutRest/5)), why
}

// unwrapped is the secret ID that a wrapping token was exchanged for. That is
// possible once, so it is kept for further logins, and in the private part of
// the volume for a container that is started again.
type unwrapped struct {
	mu     sync.Mutex
	by     string // what the wrapping token is known by
	secret sealed.Value[string]
	// wrong is why what was wrapped cannot be used: Vault says it once.
	wrong *Problem
}

// keptSecretID is unwrapped as it lies in the private part of the volume.
type keptSecretID struct{ By, SecretID string }

// unwrap exchanges a wrapping token for the secret ID in it, having made sure
// that Vault wrapped a secret ID at the path that it should have: whoever read
// another one may have wrapped something again, to go unnoticed.
func (a *Agent) unwrap(ctx context.Context, wrapping sealed.Value[string]) (none sealed.Value[string], err error) {
	auth, u := a.config.Vault.Auth, &a.unwrapped
	sum := sha256.Sum256([]byte(a.fingerprint() + "\x00" + wrapping.Reveal()))
	by := hex.EncodeToString(sum[:])
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == by && u.wrong != nil {
		return none, u.wrong
	}
	if u.by == by {
		return u.secret, nil
	}
	var k keptSecretID
	if data, err := a.volume.ReadPrivate(keptUnwrapped); err == nil && json.Unmarshal(data, &k) == nil && k.By == by && k.SecretID != "" {
		u.by, u.secret, u.wrong = by, sealed.Of(k.SecretID), nil
		return u.secret, nil
	}

	client, err := a.anonymous()
	if err != nil {
		return none, err
	}
	doing := fmt.Sprintf("looking up the wrapping token in %s at %s", auth.SecretIDPath, a.config.Vault.Address)
	e := &exchange{hide: []sealed.Value[string]{wrapping}}
	info, err := client.Logical().WriteWithContext(watch(ctx, e), "sys/wrapping/lookup", map[string]any{"token": wrapping.Reveal()})
	if err != nil {
		return none, judgeWrapping(classify(doing, err, e))
	}
	if info == nil || len(info.Data) == 0 {
		return none, &Problem{Text: fmt.Sprintf("%s: answered %d without data", doing, e.status)}
	}
	if made, _ := info.Data["creation_path"].(string); made != auth.SecretIDWrappingPath {
		return none, &Problem{Act: true, Text: fmt.Sprintf("%s: it was made at %q and not at %q, so it is not used: somebody may have exchanged it (find out who, and put another one there)", doing, e.quote(made), auth.SecretIDWrappingPath)}
	}

	doing = fmt.Sprintf("unwrapping the secret ID in %s at %s", auth.SecretIDPath, a.config.Vault.Address)
	if client, err = newClient(a.config.Vault, a.transport, a.loginNamespace(), wrapping); err != nil {
		return none, err
	}
	e = &exchange{}
	answer, err := client.Logical().UnwrapWithContext(watch(ctx, e), "")
	if err != nil {
		return none, judgeWrapping(classify(doing, err, e))
	}
	id := ""
	if answer != nil {
		id, _ = answer.Data["secret_id"].(string)
	}
	if id == "" {
		u.by, u.wrong = by, &Problem{Act: true, Text: fmt.Sprintf("%s: what was wrapped is no secret ID (wrap the answer of %s)", doing, auth.SecretIDWrappingPath)}
		return none, u.wrong
	}
	u.by, u.secret, u.wrong = by, sealed.Of(id), nil
	data, err := json.Marshal(keptSecretID{by, id})
	if err == nil {
		err = a.volume.WritePrivate(keptUnwrapped, data)
	}
	if err != nil {
		a.log.Warn("keeping the secret ID for a restart, without which that one needs another wrapping token", "reason", err)
	}
	a.log.Info("unwrapped the secret ID", "file", auth.SecretIDPath)
	return u.secret, nil
}

// judgeWrapping adds what a refused wrapping token may come from. Vault tells
// one that was used from one that ran out as little as from one that never was.
func judgeWrapping(p *Problem) *Problem {
	p.InvalidToken, p.NeedsLogin, p.Denied = false, false, false
	if p.status >= 400 && p.status < 500 && p.said != "" && !p.Everywhere {
		p.Act = true
		p.Text += ": it is no wrapping token, has run out, or has been used: unless that was here, treat the secret ID as stolen and destroy it; put another wrapping token there"
	}
	return p
}
