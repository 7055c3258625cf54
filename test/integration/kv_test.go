// Package integration runs the agent's binary against a real Vault, and a real
// PostgreSQL where there is need of one: `make integration`.
package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// Whatever the number of files, Vault is asked once for each secret, once for
// each mount, and once to log in.
func TestOneCallPerSecret(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	v.Role("app", vaulttest.Read("kv/data/app", "kv1/app"), nil)
	v.KV("app", map[string]any{"password": "first-password", "user": "ada"})
	v.KV("kv1/app", map[string]any{"pin": "1234-5678-9012"})
	a := v.Agent("app",
		config.File{Path: "app.env", Secret: "kv/app", Format: config.FormatEnv},
		config.File{Path: "app.json", Secret: "kv/data/app", Format: config.FormatJSON},
		config.File{Path: "password", Secret: "kv/app", Format: config.FormatRaw, Key: "password"},
		config.File{Path: "pin", Secret: "kv1/app", Files: map[string]string{"txt": "pin"}},
		config.File{Path: "both", Template: `{{ with secret "kv/app" }}{{ .Data.data.user }}{{ end }} {{ with secret "kv1/app" }}{{ .Data.pin }}{{ end }}`},
	)
	a.Config.Refresh = config.Duration(vaulttest.Patience)
	a.Start()
	a.WaitReady()
	for name, want := range map[string]string{
		"app.env":  "password='first-password'\nuser='ada'\n",
		"app.json": "{\n  \"password\": \"first-password\",\n  \"user\": \"ada\"\n}\n",
		"password": "first-password",
		"pin/txt":  "1234-5678-9012",
		"both":     "ada 1234-5678-9012",
	} {
		if got, err := a.File(name); got != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
	calls := v.Calls()
	for i, call := range calls {
		// Which path of a mount is asked about is left open.
		if rest, probe := strings.CutPrefix(call, "read sys/internal/ui/mounts/"); probe {
			mount, _, _ := strings.Cut(rest, "/")
			calls[i] = "read sys/internal/ui/mounts/" + mount
		}
	}
	slices.Sort(calls)
	if want := []string{"read kv/data/app", "read kv1/app", "read sys/internal/ui/mounts/kv", "read sys/internal/ui/mounts/kv1", "update auth/kubernetes/login"}; !slices.Equal(calls, want) {
		t.Errorf("calls:\n got %q\nwant %q", calls, want)
	}
}

// Vault states a lease of 768 hours with each answer of KV v1, which is none.
func TestKV1Changes(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv1/app"), nil)
	v.KV("kv1/app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv1/app", "password"))
	a.Start()
	a.WaitFile("password", "first-password")
	v.KV("kv1/app", map[string]any{"password": "second-password"})
	a.WaitFile("password", "second-password")
	wantCount(t, v, 1, loginCall)
}

// Whatever happens to a required secret, its file stays until there is another
// version to put in its place.
func TestKV2Life(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/app"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv/app", "password"))
	a.Start()
	a.WaitFile("password", "first-password")

	v.KV("app", map[string]any{"password": "second-password"})
	a.WaitFile("password", "second-password")
	stays := is(a, "password", "second-password")
	counted := func(want float64) func() error {
		return func() error {
			if got := a.Metric("latchkey_agent_missing"); got != want {
				return fmt.Errorf("latchkey_agent_missing is %g, want %g", got, want)
			}
			return nil
		}
	}
	missing := func(what string, make func()) {
		t.Helper()
		before := len(a.Log())
		make()
		a.WaitLog(before, "ERROR", `"password\"`, "404")
		if err := stays(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if ok, reason := a.Ready(); !ok {
			t.Errorf("%s: not ready: %s", what, reason)
		}
		vaulttest.Wait(t, "the secret to be counted as missing", counted(1))
	}
	missing("deleted", func() { v.Delete("kv/data/app") })
	before := len(a.Log())
	v.Write("kv/undelete/app", map[string]any{"versions": []int{2}})
	a.WaitLog(before, "works again", "password")
	vaulttest.Wait(t, "no secret to be counted as missing", counted(0))

	missing("destroyed", func() { v.Write("kv/destroy/app", map[string]any{"versions": []int{2}}) })
	v.KV("app", map[string]any{"password": "third-password"})
	a.WaitFile("password", "third-password")

	// A new secret at the same path begins with version 1, which was seen before.
	v.Delete("kv/metadata/app")
	v.KV("app", map[string]any{"password": "another-password"})
	a.WaitFile("password", "another-password")
	if version := v.Get("kv/data/app")["metadata"].(map[string]any)["version"].(json.Number); version != "1" {
		t.Errorf("the secret has version %s, want 1", version)
	}
	wantCount(t, v, 1, loginCall)
}

// A version that deletes itself is noticed when it does, whatever the refresh.
func TestKV2DeletesItself(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/*"), nil)
	for _, name := range []string{"needed", "spare"} {
		v.Write("kv/metadata/"+name, map[string]any{"delete_version_after": "20s"})
		v.KV(name, map[string]any{"password": name + "-password"})
	}
	spare := raw("spare", "kv/spare", "password")
	spare.Optional = true
	a := v.Agent("app", raw("needed", "kv/needed", "password"), spare)
	a.Config.Refresh = long
	a.Start()
	a.WaitReady()
	if got := a.Files(); got["needed"] != "needed-password" || got["spare"] != "spare-password" {
		t.Fatalf("files: %q", got)
	}
	a.WaitGone("spare")
	a.WaitLog(0, "ERROR", `"needed\"`, "404")
	if err := is(a, "needed", "needed-password")(); err != nil {
		t.Error(err)
	}
}

// An optional secret's file is there when the secret is.
func TestOptional(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/*", "kv1/*"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	two, one := raw("two", "kv/flag", "value"), raw("one", "kv1/flag", "value")
	two.Optional, one.Optional = true, true
	a := v.Agent("app", raw("password", "kv/app", "password"), two, one)
	a.Start()
	a.WaitReady()
	for _, name := range []string{"one", "two"} {
		if _, err := a.File(name); !os.IsNotExist(err) {
			t.Errorf("%s before its secret exists: %v", name, err)
		}
	}
	for _, value := range []string{"value-one", "value-two"} {
		v.KV("flag", map[string]any{"value": value})
		v.KV("kv1/flag", map[string]any{"value": value})
		a.WaitFile("two", value)
		a.WaitFile("one", value)
		v.Delete("kv/data/flag")
		v.Delete("kv1/flag")
		a.WaitGone("two")
		a.WaitGone("one")
	}
	if err := is(a, "password", "first-password")(); err != nil {
		t.Error(err)
	}
	if strings.Contains(a.Log(), `"ERROR"`) {
		t.Errorf("an optional secret that is not there is no error:\n%s", a.Log())
	}
}

// Where the entry says which engine it is, Vault is not asked.
func TestStatedVersion(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/app", "kv1/app"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	v.KV("kv1/app", map[string]any{"password": "other-password"})
	two, one := raw("two", "kv/app", "password"), raw("one", "kv1/app", "password")
	two.KV, one.KV = 2, 1
	a := v.Agent("app", two, one)
	a.Config.Refresh = long
	a.Start()
	a.WaitReady()
	if got := a.Files(); got["two"] != "first-password" || got["one"] != "other-password" {
		t.Errorf("files: %q", got)
	}
	calls := v.Calls()
	slices.Sort(calls)
	if want := []string{"read kv/data/app", "read kv1/app", loginCall}; !slices.Equal(calls, want) {
		t.Errorf("calls:\n got %q\nwant %q", calls, want)
	}
}

// A configuration that is longer than one variable of the environment may be.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	const secrets, filesOfEach = 60, 5
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/*"), nil)
	var files []config.File
	for i := range secrets {
		name := fmt.Sprintf("a-secret-whose-name-is-rather-long-as-names-of-secrets-are-%d", i)
		v.KV(name, map[string]any{"password": "password-of-" + name})
		for j := range filesOfEach {
			files = append(files, raw(fmt.Sprintf("%s/in-a-directory-of-its-own-as-it-may-be/%d", name, j), "kv/"+name, "password"))
		}
	}
	a := v.Agent("app", files...)
	a.Config.Refresh = long
	a.Start()
	a.WaitReady()
	if vars, err := a.Config.Env(); err != nil || len(vars) == 1 {
		t.Fatalf("the configuration fits into one variable (%v): make it longer", err)
	}
	got := a.Files()
	for _, f := range files {
		if want := "password-of-" + strings.TrimPrefix(f.Secret, "kv/"); got[f.Path] != want {
			t.Errorf("%s is %q, want %q", f.Path, got[f.Path], want)
		}
	}
	if n := len(v.Calls()); n != secrets+2 {
		t.Errorf("%d calls, want %d", n, secrets+2)
	}
}

// The app is told of each publication that changed bytes, and of nothing else.
func TestNotify(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/app"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv/app", "password"), config.File{Path: "app.env", Secret: "kv/app", Format: config.FormatEnv})
	var seen []string // the file at each notification
	var mu sync.Mutex
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		content, _ := a.File("password")
		seen = append(seen, content)
	}))
	t.Cleanup(app.Close)
	a.Config.Notify = []config.Notification{{HTTP: &config.HTTPRequest{URL: app.URL}}}
	a.Start()
	a.WaitReady()
	for _, password := range []string{"second-password", "third-password"} {
		v.KV("app", map[string]any{"password": password})
		a.WaitFile("password", password)
	}
	reads := v.Count("read kv/data/app")
	vaulttest.Wait(t, "two reads without a change", func() error { return atLeast(v, reads+2, "read kv/data/app") })
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"second-password", "third-password"}; !slices.Equal(seen, want) {
		t.Errorf("when it was told, the app found %q, want %q", seen, want)
	}
}
