package agent

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// wraps makes the fake wrap what it is given, as wrap-1, wrap-2, …, and returns
// what is in each.
func wraps(t *testing.T, f *fakeVault) *[]map[string]any {
	made := new([]map[string]any)
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/sys/wrapping/wrap" {
			return false
		}
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || r.Header.Get("X-Vault-Wrap-TTL") != "5m0s" {
			t.Errorf("wrapping %v for %q: %v", body, r.Header.Get("X-Vault-Wrap-TTL"), err)
		}
		*made = append(*made, body)
		reply(w, map[string]any{"wrap_info": map[string]any{
			"token": fmt.Sprint("wrap-", len(*made)), "accessor": "a", "ttl": 300, "creation_time": "2000-01-01T00:00:00Z", "creation_path": "sys/wrapping/wrap",
		}})
		return true
	}
	return made
}

// A wrapped token is there for whoever starts at any time, and holds the token.
func TestWrappedToken(t *testing.T) {
	for format, want := range map[string]string{
		"":     "wrap-%d",
		"json": `{"token":"wrap-%d","accessor":"a","ttl":300,"creation_time":"2000-01-01T00:00:00Z","creation_path":"sys/wrapping/wrap"}` + "\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newPod(t, env("db.env", "kv/app"))
			p.conf.TokenFile = &config.TokenFile{Path: "token", Format: format, Mode: 0o400, WrapTTL: config.Duration(5 * time.Minute)}
			p.vault.role.max = 2 * time.Hour
			made := wraps(t, p.vault)
			c := p.start()
			after(0)
			p.wantReady()
			if got := p.file("token"); got != fmt.Sprintf(want, 1) {
				t.Errorf("got %q", got)
			}
			if in := (*made)[0]; in["token"] != tokenPrefix+"1" || in["clientToken"] != in["token"] || in["leaseDuration"] != float64(3600) || in["vaultAddr"] != "https://vault.test:8200" {
				t.Errorf("wrapped %v", in)
			}
			// Another is there before the end of each, and no more than that.
			last := p.file("token")
			for range 20 {
				after(4 * time.Minute)
				if now := p.file("token"); now == last {
					t.Fatalf("%s is published after four of its five minutes", last)
				} else {
					last = now
				}
			}
			if n := len(*made); n > 30 {
				t.Errorf("%d tokens were wrapped in 80 minutes", n)
			}
			// While Vault gives none the last stays.
			wrap := p.vault.fault
			p.vault.set(func() { p.vault.fault = says(503, nil, `{"errors":["Vault is sealed"]}`) })
			after(20 * time.Minute)
			if now := p.file("token"); !strings.Contains(now, "wrap-") {
				t.Errorf("in an outage: %q", now)
			}
			p.vault.set(func() { p.vault.fault = wrap })
			after(50 * time.Minute)
			if in := (*made)[len(*made)-1]; in["token"] == tokenPrefix+"1" || p.file("token") != fmt.Sprintf(want, len(*made)) {
				t.Errorf("after another login: %v is wrapped, %q is published", in["accessor"], p.file("token"))
			}
			c.terminate()
		})
	}
}

// A role without the right to wrap is told of, and no app starts without its token.
func TestWrappingIsDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.conf.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400, WrapTTL: config.Duration(5 * time.Minute)}
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Path == "/v1/sys/wrapping/wrap" && says(403, nil, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)(w, r)
		}
		c := p.start()
		err := <-c.result
		if err == nil || !strings.Contains(err.Error(), "default policy") {
			t.Errorf("ended with %v", err)
		}
		// It is Vault that refuses, and not the volume.
		var metrics strings.Builder
		c.agent.ops.meter.write(&metrics, c.agent.ops.view.Load())
		if text := metrics.String(); !strings.Contains(text, `latchkey_agent_errors_total{kind="denied"}`) || strings.Contains(text, `kind="volume"`) {
			t.Errorf("counted as\n%s", text)
		}
	})
}

// The CA beside the token is the one that the agent trusts, and follows it.
func TestPublishedCA(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	server.Close()
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		file := filepath.Join(t.TempDir(), "ca.crt")
		write := func(content string) {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(ca)
		p.conf.Vault.CAFile = file
		p.conf.TokenFile = &config.TokenFile{Path: "vault/token", Mode: 0o440, CA: true}
		c := p.start()
		after(0)
		p.wantReady()
		if got := p.file("vault/ca.crt"); got != ca {
			t.Errorf("got %q", got)
		}
		write("in the midst of a rotation")
		after(15 * time.Minute)
		if got := p.file("vault/ca.crt"); got != ca {
			t.Errorf("while there is none: %q", got)
		}
		write(ca + ca)
		after(15 * time.Minute)
		if got := p.file("vault/ca.crt"); got != ca+ca {
			t.Errorf("after a rotation: %q", got)
		}
		c.terminate()

		// Where it is the system's there is nothing to publish.
		p.conf.Vault.CAFile = ""
		c = p.start()
		after(time.Second)
		if got := p.file("vault/ca.crt"); !strings.Contains(got, "no file") {
			t.Errorf("of the system's: %q", got)
		}
		c.terminate()
	})
}
