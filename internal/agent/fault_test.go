package agent

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hang answers nothing for as long as the caller waits.
func hang(_ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func says(status int, header http.Header, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for name := range header {
			w.Header().Set(name, header.Get(name))
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
		return true
	}
}

// Whatever Vault answers after the first publication, for however long: the
// files stay as they are, the agent does not end, and all heals by itself.
func TestFaultsAfterPublication(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500":            says(500, nil, `{"errors":["internal error"]}`),
		"502 of a proxy": says(502, nil, `<html>Bad Gateway</html>`),
		"503 sealed":     says(503, nil, `{"errors":["Vault is sealed"]}`),
		"429":            says(429, http.Header{"Retry-After": {"7"}}, `{"errors":["rate limit quota exceeded"]}`),
		"307":            says(307, http.Header{"Location": {"https://elsewhere.test/v1/x"}}, ``),
		"403":            says(403, nil, `{"errors":["permission denied"]}`),
		"403 invalid":    says(403, nil, `{"errors":["permission denied","invalid token"]}`),
		"404":            says(404, nil, `{"errors":[]}`),
		"400":            says(400, nil, `{"errors":["bad request"]}`),
		"200 empty":      says(200, nil, ``),
		"200 null":       says(200, nil, `{}`),
		"200 no JSON":    says(200, nil, `<html>hello</html>`),
		"200 no data":    says(200, nil, `{"data":{}}`),
		"204":            says(204, nil, ``),
		"200 wrapped":    says(200, nil, `{"wrap_info":{"token":"t","ttl":60}}`),
		"hangs":          hang,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("db.env", "kv/app"), env("v1.env", "old/app"))
				c := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.taken()
				p.vault.set(func() { p.vault.fault = fault })
				after(3 * time.Hour) // the token ends meanwhile
				calls := len(p.vault.taken())
				if calls == 0 || calls > 3*3600/10 {
					t.Errorf("%d calls in three hours", calls)
				}
				p.wantReady()
				for _, name := range []string{"db.env", "v1.env"} {
					if got := p.file(name); got != appEnv {
						t.Errorf("%s holds %q", name, got)
					}
				}
				p.vault.set(func() {
					p.vault.fault = nil
					p.vault.secrets["kv/data/app"]["data"].(map[string]any)["data"] = map[string]any{"a": "healed"}
				})
				after(10 * time.Minute)
				if got := p.file("db.env"); got != "a='healed'\n" {
					t.Errorf("not healed: %q", got)
				}
				if err := c.terminate(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The same answers before it: the gate stays shut, and opens soon after.
func TestFaultsAtStart(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"503":         says(503, nil, `{"errors":["Vault is sealed"]}`),
		"307":         says(307, http.Header{"Location": {"https://elsewhere.test/v1/x"}}, ``),
		"429":         says(429, http.Header{"Retry-After": {"7"}}, `{"errors":["rate limit quota exceeded"]}`),
		"200 empty":   says(200, nil, ``),
		"204":         says(204, nil, ``),
		"200 null":    says(200, nil, `{}`),
		"200 wrapped": says(200, nil, `{"wrap_info":{"token":"t","ttl":60}}`),
		"200 MFA":     says(200, nil, `{"auth":{"mfa_requirement":{"mfa_request_id":"x","mfa_constraints":{}}}}`),
		"404":         says(404, nil, `{"errors":[]}`),
		"403":         says(403, nil, `{"errors":["permission denied"]}`),
	} {
		for _, from := range []string{"login", "mount", "read"} {
			t.Run(name+" at "+from, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPod(t, env("db.env", "kv/app"))
					p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
						step := map[string]string{"/v1/auth/kubernetes/login": "login", "/v1/sys/internal/ui/mounts/kv/app": "mount", "/v1/kv/data/app": "read"}[r.URL.Path]
						return step == from && fault(w, r)
					}
					c := p.start()
					after(30 * time.Second)
					ok, reason := p.ready()
					if ok || reason == "the agent is starting" {
						t.Errorf("ready %v, %q", ok, reason)
					}
					t.Log(reason)
					if n := len(p.vault.taken()); n > 60 {
						t.Errorf("%d calls in 30 s", n)
					}
					p.vault.set(func() { p.vault.fault = nil })
					after(18 * time.Second) // the longest pause, after what was asked for
					p.wantReady()
					c.terminate()
				})
			})
		}
	}
}

// A 404 of something between agent and Vault does not say that a secret is gone.
func TestForeign404(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "JSON": `{"message":"no route"}`, "errors of another kind": `{"errors":"no route"}`, "no object": `[]`, "null": `{"errors":null,"data":null}`, "HTML": "<html>",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				other, tls := env("other.env", "kv/other"), certificate("tls")
				other.Optional, tls.Optional = true, true
				p := newPod(t, env("db.env", "kv/app"), other, tls)
				p.issues(time.Hour)
				c := p.start()
				after(time.Second)
				p.wantReady()
				answers := func(body string) {
					p.vault.set(func() {
						p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
							return (strings.HasPrefix(r.URL.Path, "/v1/kv/") || strings.HasPrefix(r.URL.Path, "/v1/pki/")) && says(404, nil, body)(w, r)
						}
					})
				}
				answers(body)
				after(50 * time.Minute)
				if p.file("other.env") != "key='other'\n" || !strings.HasPrefix(p.file("tls/tls.crt"), "cert 1 ") {
					t.Errorf("the files hold %q and %q", p.file("other.env"), p.file("tls/tls.crt"))
				}
				if !strings.Contains(p.logs.String(), "answered 404 with what is no answer of Vault") {
					t.Error("the log does not say what was answered")
				}
				// Vault's own is believed.
				answers(`{"errors":[]}`)
				after(10 * time.Minute)
				if !strings.HasPrefix(p.file("other.env"), "no file: ") || p.file("db.env") != appEnv {
					t.Errorf("gone in Vault, the files hold %q and %q", p.file("other.env"), p.file("db.env"))
				}
				c.terminate()
			})
		})
	}
}

// A maintenance page may ask for hours: tokens and leases end before.
func TestLongRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.set(func() {
			p.vault.fault = says(503, http.Header{"Retry-After": {"3600"}}, `{"errors":["down for maintenance"]}`)
		})
		after(6 * time.Minute)
		p.vault.taken()
		p.vault.set(func() { p.vault.fault = nil })
		after(longestRest + longestRest/2)
		if len(p.vault.taken()) == 0 {
			t.Error("Vault is not asked")
		}
		c.terminate()
	})
}
