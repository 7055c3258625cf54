package agent

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Each distinct secret is read once, each mount probed once, however many
// files want them.
func TestCallsAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := []config.File{
			env("a", "kv/app"), env("b", "/kv/app/"), env("c", "kv/data/app"), env("d", "kv/other"), env("e", "old/app"),
			{Path: "f", Template: `{{ with secret "kv/app" }}{{ .Data.data.username }}{{ end }}{{ with secret "kv/data/other" }}{{ .Data.data.key }}{{ end }}{{ with secret "old/app" }}{{ .Data.username }}{{ end }}`},
			{Path: "g", Secret: "kv/app", Format: config.FormatRaw, Key: "pin"},
			{Path: "h", Secret: "kv/app", Format: config.FormatEnv, KV: 2},
			{Path: "i", Secret: "old/app", Format: config.FormatEnv, KV: 1},
		}
		p := newPod(t, files...)
		c := p.start()
		after(0)
		p.wantReady()
		var calls []string
		for _, call := range p.vault.taken() {
			if mount, _, ok := strings.Cut(strings.TrimPrefix(call, "GET sys/internal/ui/mounts/"), "/"); ok && strings.HasPrefix(call, "GET sys/") {
				call = "probe " + mount
			}
			calls = append(calls, call)
		}
		for _, want := range []string{callLogin, "probe kv", "probe old", callRead, "GET kv/data/other", "GET old/app"} {
			if n := count(calls, want); n != 1 {
				t.Errorf("%s: %d calls, want 1", want, n)
			}
		}
		if len(calls) != 6 {
			t.Errorf("calls %q", calls)
		}
		if got := p.file("f"); got != "adaotherada" {
			t.Errorf("f holds %q", got)
		}
		if got := p.file("g"); got != fixtureNumber {
			t.Errorf("g holds %q", got)
		}
		for _, name := range []string{"a", "b", "c", "e", "h", "i"} {
			if got := p.file(name); got != appEnv {
				t.Errorf("%s holds %q", name, got)
			}
		}
		c.terminate()
	})
}

// With the version stated nothing is probed.
func TestStatedVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "a", Secret: "kv/app", Format: "env", KV: 2}, config.File{Path: "b", Secret: "old/app", Format: "env", KV: 1})
		c := p.start()
		after(0)
		p.wantReady()
		p.wantCalls(callLogin, callRead, "GET old/app")
		c.terminate()
	})
}

// A probe that failed is asked again and never taken for "not KV v2".
func TestFailedProbeIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v1/kv/app" {
				t.Error("read as if it were no KV v2 mount")
			}
			return strings.Contains(r.URL.Path, "/mounts/") && says(403, nil, `{"errors":["permission denied"]}`)(w, r)
		}
		c := p.start()
		after(5 * time.Second)
		if _, reason := p.ready(); !strings.Contains(reason, `asking for the mount of "kv/app": permission denied (403) (no such mount, or no policy of role "payments" allows anything on it)`) {
			t.Errorf("got %s", reason)
		}
		p.vault.set(func() { p.vault.fault = nil })
		after(11 * time.Second)
		p.wantReady()
		c.terminate()
	})
}

// Each file fails alone: the others move on, and it keeps its last bytes.
func TestFilesFailAlone(t *testing.T) {
	for name, breakIt := range map[string]func(*fakeVault){
		"deleted":   func(f *fakeVault) { delete(f.secrets, "kv/data/app") },
		"key gone":  func(f *fakeVault) { v2(f, "kv/data/app", map[string]any{"username": "eve"}) },
		"unfit":     func(f *fakeVault) { v2(f, "kv/data/app", map[string]any{"not-env": "x"}) },
		"leased":    func(f *fakeVault) { f.secrets["kv/data/app"]["lease_id"] = "x" },
		"null data": func(f *fakeVault) { f.secrets["kv/data/app"]["data"].(map[string]any)["data"] = nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, env("a", "kv/app"), env("b", "kv/other"), config.File{Path: "c", Template: `{{ with secret "kv/app" }}{{ .Data.data.password }}{{ end }}`})
				if name == "key gone" {
					p.conf.Files = p.conf.Files[1:] // env has no key to miss
				}
				c := p.start()
				after(time.Second)
				p.wantReady()
				p.vault.set(func() { breakIt(p.vault); v2(p.vault, "kv/data/other", map[string]any{"key": "moved on"}) })
				after(20 * time.Minute)
				if got := p.file("b"); got != "key='moved on'\n" {
					t.Errorf("b holds %q", got)
				}
				if got := p.file("c"); got != fixturePassword {
					t.Errorf("c holds %q", got)
				}
				if name != "key gone" && p.file("a") != appEnv {
					t.Errorf("a holds %q", p.file("a"))
				}
				p.wantReady()
				c.terminate()
			})
		})
	}
}

func v2(f *fakeVault, path string, data map[string]any) {
	f.secrets[path] = map[string]any{"data": map[string]any{"data": data, "metadata": map[string]any{"version": 9}}}
}

// Before the first publication every secret must be there, and the reason says
// which one is not.
func TestMissingAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("a", "kv/app"), env("b", "kv/nope"), config.File{Path: "c", Template: `{{ with secret "kv/app" }}{{ .Data.data.nope }}{{ end }}`})
		c := p.start()
		after(time.Second)
		if ok, reason := p.ready(); ok || reason != `path "b": reading "kv/data/nope": no such secret (404): write it, or correct the path (and 1 more)` {
			t.Errorf("ready %v, %s", ok, reason)
		}
		p.vault.set(func() { v2(p.vault, "kv/data/nope", map[string]any{"k": "v"}) })
		after(11 * time.Second)
		if ok, reason := p.ready(); ok || reason != `path "c": line 1, column 35: .Data.data.nope: secret has no key "nope"` {
			t.Errorf("ready %v, %s", ok, reason)
		}
		p.vault.set(func() { v2(p.vault, "kv/data/app", map[string]any{"nope": "there"}) })
		after(11 * time.Second)
		p.wantReady()
		c.terminate()
	})
}

// A template's path is checked as a file's secret is.
func TestTemplatePaths(t *testing.T) {
	for _, path := range []string{"", "/", "..", "../sys/raw", "kv/../sys/mounts", "kv//app", "kv/app?list=true", "kv/app#x", "kv/app?version=1&x=y"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, config.File{Path: "a", Template: `{{ $p := "` + path + `" }}{{ with secret $p }}{{ end }}x`})
				c := p.start()
				after(time.Second)
				if _, reason := p.ready(); !strings.HasPrefix(reason, `path "a": line 1, column `) || !strings.Contains(reason, `: secret $p: secret "`) {
					t.Errorf("got %s", reason)
				}
				p.wantCalls(callLogin)
				c.terminate()
			})
		})
	}
}

// A version is another secret than the latest.
func TestVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "a", Template: `{{ with secret "kv/app?version=1" }}{{ .Data.data.username }}{{ end }}{{ with secret "kv/app" }}{{ .Data.data.username }}{{ end }}`})
		var queries []string
		p.vault.fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v1/kv/data/app" {
				queries = append(queries, r.URL.RawQuery)
			}
			return false
		}
		c := p.start()
		after(0)
		p.wantReady()
		if len(queries) != 2 || queries[0] != "version=1" || queries[1] != "" {
			t.Errorf("queries %q", queries)
		}
		c.terminate()
	})
}
