package agent

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// user is whom an answer of the database makes the app.
func user(body map[string]any) any {
	data, _ := body["data"].(map[string]any)
	return data["username"]
}

func TestProxySharesLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		p.vault.role.ttl = 30 * time.Minute
		c := p.start()
		after(0)
		h := c.agent.localHandler()
		creds := func(header ...string) map[string]any {
			t.Helper()
			status, body := ask(h, ofApp("GET", "/v1/db/creds/app", "", header...))
			if status != 200 {
				t.Fatalf("%d %v", status, body)
			}
			return body
		}
		if u := user(creds()); u != "user-1" {
			t.Fatalf("got %v", u)
		}
		after(time.Minute)
		if again := creds(); user(again) != "user-1" || again["lease_duration"] != float64(540) || again["lease_id"] != "db/creds/app/1" {
			t.Errorf("a minute later: %v", again)
		}
		// Other requests are others.
		for i, header := range []string{"X-Vault-Namespace: other", "X-Vault-Token: another"} {
			if u := user(creds(header)); u != fmt.Sprint("user-", i+2) {
				t.Errorf("%s: %v", header, u)
			}
		}
		for i, r := range []*http.Request{ofApp("GET", "/v1/db/creds/other", ""), ofApp("GET", "/v1/db/creds/app?ttl=1h", ""), ofApp("PUT", "/v1/db/creds/app", ""), ofApp("PUT", "/v1/db/creds/app", `{"ttl":"1h"}`)} {
			if _, body := ask(h, r); user(body) != fmt.Sprint("user-", i+4) {
				t.Errorf("%s %s: %v", r.Method, r.URL, body)
			}
		}
		if u := user(creds()); u != "user-1" {
			t.Errorf("got %v", u)
		}
		// An outage takes nothing away.
		p.vault.set(func() { p.vault.cut = true })
		if u := user(creds()); u != "user-1" {
			t.Errorf("in an outage: %v", u)
		}
		p.vault.set(func() { p.vault.cut = false })
		// Its lease's end.
		after(9 * time.Minute)
		if u := user(creds()); u != "user-8" {
			t.Errorf("after the lease: %v", u)
		}
		// Something is revoked.
		p.vault.set(func() { p.vault.revoked = nil })
		if status, _ := ask(h, ofApp("PUT", "/v1/sys/leases/revoke", `{"lease_id":"db/creds/app/8"}`)); status != 204 {
			t.Errorf("revoking a lease: %d", status)
		}
		if u := user(creds()); u != "user-9" {
			t.Errorf("after a revocation: %v", u)
		}
		// The token dies, and what hung on it with it.
		p.vault.set(func() {
			for _, token := range p.vault.tokens {
				token.revoked = true
			}
		})
		ask(h, ofApp("GET", "/v1/kv/data/app", ""))
		after(time.Minute)
		if u := user(creds()); u != "user-10" {
			t.Errorf("after another login: %v", u)
		}
		if n := metricsOf(c.agent)[`latchkey_agent_proxy_requests_total{result="shared"}`]; n != "3" {
			t.Errorf("%s answers shared", n)
		}
		c.terminate()
	})
}

// Requests that are the same and come at once make one lease.
func TestProxySharesWhileVaultAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		c := p.start()
		after(0)
		fault := p.vault.fault
		p.vault.set(func() {
			p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
				time.Sleep(time.Second)
				return fault(w, r)
			}
		})
		h := c.agent.localHandler()
		var apps sync.WaitGroup
		for range 20 {
			apps.Go(func() {
				if _, body := ask(h, ofApp("GET", "/v1/db/creds/app", "")); user(body) != "user-1" {
					t.Errorf("got %v", body)
				}
			})
		}
		apps.Wait()
		c.terminate()
	})
}

// What is remembered is bounded, and what does not fit is asked for anew.
func TestProxyMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxyPod(t)
		c := p.start()
		after(0)
		proxy := newProxy(c.agent)
		for i := range 2 * maxShared {
			if status, _ := ask(proxy, ofApp("GET", fmt.Sprint("/v1/db/creds/", i), "")); status != 200 {
				t.Fatal(status)
			}
		}
		if n := len(proxy.shared.answers); n != maxShared {
			t.Errorf("%d answers", n)
		}
		after(time.Hour)
		ask(proxy, ofApp("GET", "/v1/db/creds/app", ""))
		if n := len(proxy.shared.answers); n != 1 || proxy.shared.bytes > 1000 || len(proxy.shared.flights) != 0 {
			t.Errorf("%d answers of %d bytes an hour later", n, proxy.shared.bytes)
		}
		c.terminate()
	})
}
