package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// tokenPoll is how often the file of method token is looked at, at least.
const tokenPoll = time.Minute

// takeToken takes the Vault token into use that somebody else keeps in a file:
// method token. It is renewed, since that harms nobody, and never revoked.
func (a *Agent) takeToken(ctx context.Context) (*session, error) {
	file := a.config.Vault.Auth.TokenPath
	doing := fmt.Sprintf("using the token in %s at %s", file, a.config.Vault.Address)
	token, err := readCredential(file)
	if err != nil {
		return nil, &Problem{Act: true, Text: fmt.Sprintf("%s: %v (does what holds it exist in the pod's namespace, with a Vault token in this key?)", doing, err)}
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	client, err := newClient(a.config.Vault, a.transport, a.loginNamespace(), token)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	s := &session{token: token, life: life{Foreign: true, LoggedIn: now, Granted: now}}
	e := &exchange{keepBody: true}
	if _, err := client.Auth().Token().LookupSelfWithContext(watch(ctx, e)); err != nil {
		p := classify(doing, err, e)
		switch {
		case p.InvalidToken:
			p.InvalidToken, p.NeedsLogin, p.Act = false, false, true
			p.Text += ": it has run out, or was revoked (put another one there)"
		case p.Denied:
			// Without the default policy nothing is known of it: its uses tell
			// when it is no good any more.
			a.log.Info("the token may not be looked up, so that its life is not known", "file", file)
			return s, nil
		}
		return nil, p
	}
	var answer struct {
		Data *struct {
			TTL       int      `json:"ttl"` // seconds that are left; 0 is without end
			Type      string   `json:"type"`
			Renewable bool     `json:"renewable"`
			NumUses   int      `json:"num_uses"`
			Policies  []string `json:"policies"`
			Accessor  string   `json:"accessor"`
		} `json:"data"`
	}
	if err := json.Unmarshal(e.body.Reveal(), &answer); err != nil || answer.Data == nil {
		return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without data", doing, e.status)}
	}
	d := answer.Data
	switch {
	case slices.Contains(d.Policies, "root"):
		return nil, &Problem{Act: true, Text: doing + ": it is a root token, which no pod may have (put one there whose policies allow what the pod reads, and revoke this one)"}
	case d.NumUses != 0:
		return nil, &Problem{Act: true, Text: fmt.Sprintf("%s: it is good for a few uses more, which cannot be renewed (put one there without num_uses)", doing)}
	}
	s.Batch = d.Type == "batch"
	s.Renewable = d.Renewable && !s.Batch
	s.TTL = seconds(d.TTL)
	s.Expires = now.Add(s.TTL)
	s.Accessor = d.Accessor
	return s, nil
}

// replacedByOthers reports whether the file of method token holds another token
// by now. One that cannot be read leaves the token as it is.
func (a *Agent) replacedByOthers(s *session) bool {
	if !s.Foreign {
		return false
	}
	file := a.config.Vault.Auth.TokenPath
	token, err := readCredential(file)
	if err != nil {
		a.tell("token file", &Problem{Act: true, Text: fmt.Sprintf("going on with the token of before: %v (put a Vault token there)", err)})
		return false
	}
	a.solved("token file")
	return token.Reveal() != s.token.Reveal()
}

// awaitToken says that a token of somebody else's ends, which only that one can
// remedy, and goes on with it until then.
func (a *Agent) awaitToken(ctx context.Context, s *session) error {
	if !time.Now().Before(s.Expires) {
		return a.replace(ctx, false)
	}
	s.due = s.Expires
	a.tell("token's end", &Problem{Act: true, Text: fmt.Sprintf("the token in %s ends at %s, since it cannot be renewed any more (put another one there before that)",
		a.config.Vault.Auth.TokenPath, s.Expires.UTC().Format(time.RFC3339))})
	return nil
}
