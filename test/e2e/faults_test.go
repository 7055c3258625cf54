package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/cluster/faultproxy"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// Whatever a Vault that cannot answer looks like, a pod waits for it, its app
// held back, and starts by itself when it is over; a running app keeps its file.
func TestFaultsOfVaultAreWaitedOut(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faultproxy.Mode{
		"slow":     {Fault: "slow", Delay: 2 * time.Second},
		"cut":      {Fault: "cut"},
		"refused":  {Fault: "refuse"},
		"limited":  {Fault: "status", Status: http.StatusTooManyRequests, RetryAfter: 1},
		"sealed":   {Fault: "status", Status: http.StatusServiceUnavailable},
		"redirect": {Fault: "status", Status: http.StatusTemporaryRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := aSpace(t)
			proxy := proxyToVault(t, harness.FaultyConnections[name])
			annotations := wants(s.Name) + "latchkey.dev/connection: " + name + "\nlatchkey.dev/refresh: 5s\n"

			if err := proxy.Set(fault); err != nil {
				t.Fatal(err)
			}
			s.Create(pod{name: "app", annotations: annotations, script: gated}.String())
			s.WaitPod("app", "waiting with a running agent", harness.AgentRunning)
			if fault.Fault != "slow" { // which ends by itself, a few seconds later
				stillHeld(s, 5*time.Second, "app")
				if err := proxy.Set(faultproxy.Mode{}); err != nil {
					t.Fatal(err)
				}
			}
			wantGated(s, "app")

			if err := proxy.Set(fault); err != nil {
				t.Fatal(err)
			}
			s.Secret("app", map[string]any{"PASSWORD": changed})
			if fault.Fault != "slow" {
				stays(s, 7*time.Second, appEnv)
				if err := proxy.Set(faultproxy.Mode{}); err != nil {
					t.Fatal(err)
				}
			}
			s.WaitFile("app", "app", "/vault/secrets/app.env", changedEnv)
			if requests, faulty := proxy.Counts(); faulty == 0 && fault.Fault != "refuse" {
				t.Errorf("none of %d requests met the fault", requests)
			}
		})
	}
}

// stays looks for a while that the app's file is what it was.
func stays(s *harness.Space, while time.Duration, want string) {
	s.Helper()
	end := time.After(while)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if got := s.Exec("app", "app", "cat", "/vault/secrets/app.env"); got != want {
			s.Fatalf("during the fault the app's file became %q, want %q", got, want)
		}
		select {
		case <-end:
			return
		case <-tick.C:
		}
	}
}

// proxyToVault starts a proxy before the real Vault. The tests are outside the
// cluster's DNS, but Vault's certificate has its address too.
func proxyToVault(t *testing.T, address string) *faultproxy.Proxy {
	t.Helper()
	return proxyTo(t, address, "https://"+cluster.VaultIP+":8200", suite.VaultCA)
}

// proxyTo starts a proxy before a Vault with a certificate of an authority.
func proxyTo(t *testing.T, address, vault string, authority []byte) *faultproxy.Proxy {
	t.Helper()
	certPEM, keyPEM, err := suite.IssueServing(cluster.NodeIP)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(vault)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	proxy := faultproxy.New(address, &cert, target, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}})
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return proxy
}
