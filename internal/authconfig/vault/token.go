package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

const (
	// keepRest is how often Keep looks into the file, at the least.
	keepRest   = time.Minute
	spentToken = "it has run out, or was revoked (put another one there)"
)

// takeToken takes what lies in the file now. One that is new is looked up first.
func (c *Client) takeToken(ctx context.Context) (*session, error) {
	file := c.vault.Auth.TokenPath
	value, err := readWord(file)
	if err != nil {
		return nil, fmt.Errorf("reading the Vault token: %w", err)
	}
	if c.now != nil && c.now.value.Reveal() == value.Reveal() {
		return c.now, nil
	}
	s, err := c.lookUp(ctx, value)
	if c.LoggedIn != nil {
		c.LoggedIn(err)
	}
	if err != nil {
		return nil, err
	}
	c.now = s
	c.log.Info("using the Vault token of a file", "address", c.vault.Address, "file", file, "expires", s.expires)
	return s, nil
}

func (c *Client) lookUp(ctx context.Context, value sealed.Value[string]) (*session, error) {
	const path = "auth/token/lookup-self"
	doing := fmt.Sprintf("looking up the token in %s at %s", c.vault.Auth.TokenPath, c.vault.Address)
	s := &session{value: value, namespace: loginNamespace(c.vault)}
	client, err := c.with(s)
	if err != nil {
		return nil, err
	}
	answer, err := client.Logical().ReadWithContext(ctx, path)
	if err != nil {
		e := c.failure(doing, path, err, value)
		switch {
		case e.denied(): // so it is no root token, which may do everything
			return s, nil
		case e.spent():
			e.Remedy = spentToken
		}
		return nil, e
	}
	if answer == nil || answer.Data == nil {
		return nil, &Error{Doing: doing, Said: errNoData.Error(), Remedy: between}
	}
	policies, err := answer.TokenPolicies()
	if err != nil {
		return nil, &Error{Doing: doing, Said: errNoData.Error(), Remedy: between}
	}
	if err := refuseRoot(doing, policies); err != nil {
		return nil, err
	}
	ttl, _ := answer.Data["ttl"].(json.Number)
	seconds, _ := ttl.Int64() // 0 if there is none
	renewable, _ := answer.Data["renewable"].(bool)
	s.grant(time.Duration(seconds)*time.Second, renewable)
	return s, nil
}

// grant notes what somebody else's token has of life.
func (s *session) grant(life time.Duration, renewable bool) {
	s.expires, s.renew = time.Time{}, time.Time{}
	if life > 0 {
		s.expires = time.Now().Add(life)
	}
	if life > 0 && renewable {
		s.renew = time.Now().Add(life / 2)
	}
}

// Keep renews the token of a file at half of its life until ctx is done. With
// the other methods it returns at once: their token comes from a login that can
// be repeated.
func (c *Client) Keep(ctx context.Context) {
	if c.vault.Auth.Method != config.MethodToken {
		return
	}
	told := ""
	for ctx.Err() == nil {
		wait, err := c.keep(ctx)
		switch {
		case err == nil:
			told = ""
		case ctx.Err() == nil && err.Error() != told:
			told = err.Error()
			c.log.Warn("the Vault token is not renewed", "reason", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// keep renews the token if that is due, and returns when to look again. The file
// may hold another one by then.
func (c *Client) keep(ctx context.Context) (wait time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.takeToken(ctx)
	if err != nil {
		return keepRest, err
	}
	if !s.renew.IsZero() && !time.Now().Before(s.renew) {
		if err := c.renew(ctx, s); err != nil {
			return max(min(keepRest, time.Until(s.expires)/4), time.Second), err
		}
	}
	if s.renew.IsZero() {
		return keepRest, nil
	}
	return min(keepRest, max(time.Until(s.renew), time.Second)), nil
}

func (c *Client) renew(ctx context.Context, s *session) error {
	client, err := c.with(s)
	if err != nil {
		return err
	}
	doing := fmt.Sprintf("renewing the token in %s at %s", c.vault.Auth.TokenPath, c.vault.Address)
	answer, err := client.Auth().Token().RenewSelfWithContext(ctx, 0)
	if err != nil {
		e := c.failure(doing, "auth/token/renew-self", err, s.value)
		if e.spent() {
			c.now, e.Remedy = nil, spentToken
		}
		return e
	}
	if answer == nil || answer.Auth == nil {
		return &Error{Doing: doing, Said: errNoData.Error(), Remedy: between}
	}
	s.grant(time.Duration(answer.Auth.LeaseDuration)*time.Second, answer.Auth.Renewable)
	return nil
}
