package integration

import (
	"io"
	"log"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// balancer stands before several nodes, as a Service does, and sends everything
// to one of them.
type balancer struct {
	url string
	to  atomic.Pointer[vaulttest.Vault]
}

func balance(t *testing.T, v *vaulttest.Vault) *balancer {
	t.Helper()
	b := &balancer{}
	b.send(v)
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to, err := url.Parse(b.to.Load().Address)
			if err != nil {
				t.Error(err)
				return
			}
			r.SetURL(to)
		},
		ErrorLog: log.New(io.Discard, "", 0), // the agent sees it as 502
	})
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

// send makes v the one.
func (b *balancer) send(v *vaulttest.Vault) { b.to.Store(v) }
