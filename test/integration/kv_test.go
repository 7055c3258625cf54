// Package integration runs the agent's binary against a real Vault, and a real
// PostgreSQL where there is need of one: `make integration`.
package integration

import (
	"slices"
	"strings"
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
