package agent

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// useMeter carries the calls of a session whose tokens Vault lets be used a few
// times only. It counts every call, and logs in again as soon as a token has
// none left, in the midst of a round as well: whoever calls notices nothing.
//
// Nothing is spent on renewals and lookups. Vault revokes such a token itself
// with its last use, so that none is left behind.
type useMeter struct {
	next http.RoundTripper
	// login brings another token, and how often that can be used; 0 is as often
	// as one likes.
	login func(context.Context) (sealed.Value[string], int, error)

	mu        sync.Mutex
	token     sealed.Value[string]
	unlimited bool
	left      int
}

func (m *useMeter) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := m.spend(r.Context(), strings.HasSuffix(r.URL.Path, "/auth/token/revoke-self"))
	if err != nil {
		return nil, err
	}
	if e, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		e.hide = append(e.hide, token)
	}
	r = r.Clone(r.Context())
	r.Header.Set(api.AuthHeaderName, token.Reveal())
	return m.next.RoundTrip(r)
}

// spend takes one use. The lock is held over a login, which makes all others
// wait for its token.
func (m *useMeter) spend(ctx context.Context, revocation bool) (sealed.Value[string], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 && !m.unlimited && !revocation {
		token, uses, err := m.login(ctx)
		if err != nil {
			return sealed.Value[string]{}, err
		}
		m.token, m.left, m.unlimited = token, uses, uses == 0
	}
	m.left = max(m.left-1, 0)
	return m.token, nil
}

// spent reports whether the token has no use left, not even for its revocation.
func (m *useMeter) spent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left == 0 && !m.unlimited
}
