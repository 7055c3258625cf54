package integration

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// An encryption gives another text each time, so it is done once, also over
// restarts of the container.
func TestTransitEncryptsOnce(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Mount("transit", "transit", api.MountConfigInput{})
	v.Write("transit/keys/app", map[string]any{})
	v.Role("app", vaulttest.Read("transit/*", "kv/data/app"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	plain := base64.StdEncoding.EncodeToString([]byte("a text"))
	a := v.Agent("app",
		config.File{Path: "text", Secret: "transit/encrypt/app", Data: map[string]any{"plaintext": plain}, Format: config.FormatRaw, Key: "ciphertext"},
		config.File{Path: "all.json", Secret: "transit/encrypt/app", Data: map[string]any{"plaintext": plain}, Format: config.FormatJSON},
		raw("password", "kv/app", "password"),
	)
	a.Start()
	a.WaitReady()
	text, err := a.File("text")
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := a.File("all.json"); !strings.Contains(all, text) {
		t.Errorf("two files of one write disagree: %q, %q", text, all)
	}
	if got := v.Write("transit/decrypt/app", map[string]any{"ciphertext": text})["plaintext"]; got != plain {
		t.Errorf("the text is %q, want %q", got, plain)
	}
	// A refresh of the others, and restarts, are no reason to do it again.
	v.KV("app", map[string]any{"password": "second-password"})
	a.WaitFile("password", "second-password")
	for _, password := range []string{"third-password", "fourth-password"} {
		a.Kill()
		v.KV("app", map[string]any{"password": password})
		a.Start()
		a.WaitFile("password", password)
	}
	if err := is(a, "text", text)(); err != nil {
		t.Error(err)
	}
	wantCount(t, v, 1, "update transit/encrypt/app")
	wantCount(t, v, 1, loginCall)
}

// A write is repeated at the interval that its entry states.
func TestWriteAtInterval(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("sys/tools/random/*"), nil)
	every := config.File{Path: "often", Secret: "sys/tools/random/24", Data: map[string]any{"format": "hex"}, Format: config.FormatRaw, Key: "random_bytes", Refresh: config.Duration(config.MinRefresh)}
	once := config.File{Path: "once", Secret: "sys/tools/random/32", Data: map[string]any{"format": "hex"}, Format: config.FormatRaw, Key: "random_bytes"}
	a := v.Agent("app", every, once)
	a.Start()
	a.WaitReady()
	first, _ := a.File("once")
	last, _ := a.File("often")
	v.Secret(first)
	for range 3 {
		last = v.Secret(a.WaitChange("often", last))
	}
	if err := is(a, "once", first)(); err != nil {
		t.Error(err)
	}
	wantCount(t, v, 1, "update sys/tools/random/32")
}

// Anything that answers a read is a secret.
func TestAnyOtherRead(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Mount("transit", "transit", api.MountConfigInput{})
	v.Write("transit/keys/app", map[string]any{})
	v.Mount("pki", "pki", api.MountConfigInput{})
	v.Write("pki/root/generate/internal", map[string]any{"common_name": "test root"})
	v.Role("app", vaulttest.Read("transit/keys/app", "pki/cert/ca", "cubbyhole/*"), nil)
	own := raw("own", "cubbyhole/own", "value")
	own.Optional = true
	a := v.Agent("app", own, raw("ca.crt", "pki/cert/ca", "certificate"), config.File{
		Path: "version", Template: `{{ with secret "transit/keys/app" }}{{ .Data.latest_version }}{{ end }}`,
	})
	a.Start()
	a.WaitFile("version", "1")
	a.WaitFile("ca.crt", v.Get("pki/cert/ca")["certificate"].(string))
	if _, err := a.File("own"); err == nil {
		t.Error("a file of a secret that does not exist")
	}
	v.Write("transit/keys/app/rotate", nil)
	a.WaitFile("version", "2")
	wantCount(t, v, 1, loginCall)
}

// The interval of the secrets is of the order that was asked for: no polling
// beyond it.
func TestRefreshIsNoFlood(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/app"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv/app", "password"))
	a.Start()
	a.WaitReady()
	vaulttest.Wait(t, "four reads", func() error { return atLeast(v, 4, "read kv/data/app") })
	var reads []time.Time
	for _, e := range v.Audit() {
		if e.String() == "read kv/data/app" {
			reads = append(reads, e.Time)
		}
	}
	if three := reads[3].Sub(reads[0]); three < 12*time.Second {
		t.Errorf("three intervals of 5s took %s", three)
	}
}
