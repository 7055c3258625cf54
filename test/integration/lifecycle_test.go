package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// An app is not started without all that it needs, and the reason can be read
// all the while.
func TestStartWaitsForDatabase(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	v.Policy("app", vaulttest.Read("database/creds/app", "kv/data/app"))
	v.KV("app", map[string]any{"password": "first-password"})
	a.Config.Files = append(a.Config.Files, config.File{Path: "password", Secret: "kv/app", Format: config.FormatRaw, Key: "password", Mode: 0o440})
	db.Kill()
	a.Start()
	vaulttest.Wait(t, "the reason", func() error {
		if ok, reason := a.Ready(); ok || !strings.Contains(reason, "database/creds/app") {
			return fmt.Errorf("ready: %v, %q", ok, reason)
		}
		return nil
	})
	if files := a.Files(); len(files) > 0 {
		t.Errorf("files before all are there: %q", files)
	}
	db.Start()
	a.WaitReady()
	if err := lives(v, db, a); err != nil {
		t.Error(err)
	}
	wantCount(t, v, 1, loginCall)
	if users := db.Users(); len(users) != 1 {
		t.Errorf("users %q, want one", users)
	}
}

// A start that comes to nothing ends with its reason in one line, and the next
// one goes on with the token.
func TestStartTimeout(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/other"), nil)
	v.KV("app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv/app", "password"))
	for range 2 {
		a.Config.StartTimeout = config.Duration(5 * time.Second)
		a.Start()
		if code := a.WaitEnd(); code != 1 {
			t.Fatalf("exit code %d", code)
		}
		words := a.LastWords()
		for _, part := range []string{"no files after 5s", "permission denied", `"kv/data/app"`, `role "app"`} {
			if !strings.Contains(words, part) {
				t.Errorf("the last words lack %s: %q", part, words)
			}
		}
		if strings.Count(words, "\n") != 1 {
			t.Errorf("the last words are no line: %q", words)
		}
	}
	v.Policy("app", vaulttest.Read("kv/data/app"))
	a.Config.StartTimeout = config.Duration(vaulttest.Patience)
	a.Start()
	a.WaitFile("password", "first-password")
	wantCount(t, v, 1, loginCall)
}

// A token that apps use is never revoked, and the one in the file always works.
func TestLentToken(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Role("app", vaulttest.Read("kv/data/app"), map[string]any{"token_ttl": "30s", "token_max_ttl": "30s"})
	v.KV("app", map[string]any{"password": "first-password"})
	a := v.Agent("app", raw("password", "kv/app", "password"))
	a.Config.TokenFile = &config.TokenFile{Path: "token", Mode: 0o400}
	a.Start()
	a.WaitReady()
	works := func() error {
		token, err := a.File("token")
		if err != nil {
			return err
		}
		_, err = v.Client(token).Logical().ReadWithContext(t.Context(), "auth/token/lookup-self")
		return err
	}
	vaulttest.Wait(t, "the third login", func() error {
		if err := works(); err != nil {
			t.Fatalf("the token in the file: %v", err)
		}
		return atLeast(v, 3, loginCall)
	})
	if code := a.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := works(); err != nil {
		t.Errorf("the token in the file after the agent's end: %v", err)
	}
	wantCount(t, v, 0, revokeSelf)
}

// A file that mixes what has a lease with what has none keeps the lease when the
// other changes.
func TestMixedTemplate(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	v.Policy("app", vaulttest.Read("database/creds/app", "kv/data/app"))
	v.KV("app", map[string]any{"host": "first.db.example"})
	a.Config.Files = append(a.Config.Files, config.File{Path: "url", Mode: 0o440,
		Template: `{{ with secret "database/creds/app" }}{{ .Data.username }}{{ end }}@{{ with secret "kv/app" }}{{ .Data.data.host }}{{ end }}`})
	a.Start()
	a.WaitReady()
	u, _ := opened(t, v, db, a)
	a.WaitFile("url", u.Username+"@first.db.example")
	v.KV("app", map[string]any{"host": "second.db.example"})
	a.WaitFile("url", u.Username+"@second.db.example")
	wantCount(t, v, 1, credsCall)
}
