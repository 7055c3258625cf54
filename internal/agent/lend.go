package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// tokenFiles are the published files that hold the token, or a wrapping of it,
// and the CA. An error means that there is none yet for an app to start with.
func (a *Agent) tokenFiles() ([]volume.File, error) {
	t := a.config.TokenFile
	token := volume.File{Path: t.Path, Mode: fs.FileMode(t.Mode)}
	var err error
	switch {
	case t.WrapTTL != 0:
		token.Content, token.Keep, err = a.wrapToken()
	case t.Format == config.TokenJSON:
		token.Content, err = encode(a.loan())
	default:
		token.Content = sealed.Of([]byte(a.session.token.Reveal()))
	}
	if err != nil {
		return nil, err
	}
	files := []volume.File{token}
	if v := a.config.Vault; t.CA && (v.CA != "" || v.CAFile != "") {
		files = append(files, caFile(v, t))
	}
	return files, nil
}

// loan is the token as programs read it that were made for Kubernetes-Vault and
// vault-sidekick, whose names these are.
type loan struct {
	ClientToken   string `json:"clientToken"`
	Accessor      string `json:"accessor"`
	LeaseDuration int64  `json:"leaseDuration"` // seconds
	Renewable     bool   `json:"renewable"`
	VaultAddr     string `json:"vaultAddr"`
}

func (a *Agent) loan() loan {
	s := a.session
	return loan{s.token.Reveal(), s.Accessor, int64(s.Expires.Sub(s.Granted) / time.Second), s.Renewable, a.config.Vault.Address}
}

// encode is a line of JSON.
func encode(v any) (sealed.Value[[]byte], error) {
	data, err := json.Marshal(v)
	if err != nil {
		return sealed.Value[[]byte]{}, fmt.Errorf("encoding the token file: %w", err)
	}
	return sealed.Of(append(data, '\n')), nil
}

// caFile is the CA that the agent trusts now. While what should hold one does
// not, it goes on with the last, and so does the file.
func caFile(v config.Vault, t *config.TokenFile) volume.File {
	f := volume.File{Path: t.CAPath(), Mode: fs.FileMode(t.Mode)}
	pem := []byte(v.CA)
	if v.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(v.CAFile); err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
			f.Keep = true
			return f
		}
	}
	f.Content = sealed.Of(pem)
	return f
}

const (
	// wrapTimeout bounds the call that wraps the token. The loop waits for it.
	wrapTimeout = 5 * time.Second
	wrapAgain   = 30 * time.Second
)

// wrapping is a published wrapping of the token.
type wrapping struct {
	token   sealed.Value[string] // what is in it
	content sealed.Value[[]byte] // of the file
	due     time.Time            // when there is to be another; zero is never
}

// wrapToken returns the wrapping that is to be published. Whether an app has
// unwrapped one nobody knows, and one that starts anew finds only what nobody
// has: so there is another in good time before each one's end. Where Vault gives
// none, the last stays.
func (a *Agent) wrapToken() (content sealed.Value[[]byte], keep bool, err error) {
	w := &a.wrapping
	if w.token.Reveal() == a.session.token.Reveal() && time.Now().Before(w.due) {
		return w.content, false, nil
	}
	content, err = a.wrap()
	if err == nil {
		ttl := time.Duration(a.config.TokenFile.WrapTTL)
		*w = wrapping{a.session.token, content, time.Now().Add(ttl*2/3 - jitter(ttl/10))}
		a.solved("wrapping")
		return content, false, nil
	}
	if !a.volume.Has(a.config.TokenFile.Path) {
		return content, false, err
	}
	a.tell("wrapping", problemOf(err))
	w.due = time.Now().Add(wrapAgain - jitter(wrapAgain/2))
	return content, true, nil
}

// wrap asks Vault to wrap the token (sys/wrapping/wrap, which the default policy
// allows). Who unwraps it gets the names of the JSON form, and "token", which
// Vault Agent's sinks have.
func (a *Agent) wrap() (content sealed.Value[[]byte], err error) {
	t := a.config.TokenFile
	doing := fmt.Sprintf("wrapping the token of role %q at %s", a.config.Vault.Auth.Role, a.config.Vault.Address)
	client, err := newClient(a.config.Vault, a.transport, a.loginNamespace(), a.session.token)
	if err != nil {
		return content, err
	}
	client.SetWrappingLookupFunc(func(string, string) string { return t.WrapTTL.String() })
	l := a.loan()
	ctx, cancel := context.WithTimeout(context.Background(), wrapTimeout)
	defer cancel()
	e := &exchange{}
	answer, err := client.Logical().WriteWithContext(watch(ctx, e), "sys/wrapping/wrap", map[string]any{
		"token": l.ClientToken, "clientToken": l.ClientToken, "accessor": l.Accessor, "leaseDuration": l.LeaseDuration, "renewable": l.Renewable, "vaultAddr": l.VaultAddr,
	})
	switch {
	case err != nil:
		p := classify(doing, err, e)
		if p.Denied {
			p.Text += " (a policy of the role must allow update on sys/wrapping/wrap, as the default policy does)"
		}
		return content, p
	case answer == nil || answer.WrapInfo == nil || answer.WrapInfo.Token == "":
		return content, &Problem{Text: fmt.Sprintf("%s: answered %d without a wrapping token", doing, e.status)}
	}
	info := answer.WrapInfo
	if t.Format != config.TokenJSON {
		return sealed.Of([]byte(info.Token)), nil
	}
	return encode(struct {
		Token        string    `json:"token"`
		Accessor     string    `json:"accessor"`
		TTL          int       `json:"ttl"` // seconds
		CreationTime time.Time `json:"creation_time"`
		CreationPath string    `json:"creation_path"`
	}{info.Token, info.Accessor, info.TTL, info.CreationTime, info.CreationPath})
}
