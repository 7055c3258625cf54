package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func template(path, text string) config.File { return config.File{Path: path, Template: text} }

// A function that gives another result each time changes a file only when a
// secret changes, also when the agent is started again.
func TestUnsteadyTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, template("hash", `{{ with secret "kv/app" }}{{ .Data.data.username | sprig_bcrypt }} {{ timestamp }}{{ end }}`),
			template("time", `{{ timestamp "unix" }}`), env("other.env", "kv/other"))
		c := p.start()
		after(time.Second)
		p.wantReady()
		hash, now := p.file("hash"), p.file("time")
		if !strings.HasPrefix(hash, "$2a$") || now == "" {
			t.Fatalf("got %q and %q", hash, now)
		}
		after(time.Hour)
		for _, change := range []string{"passes", "another file", "a start", "another start"} {
			switch change {
			case "another file":
				v2(p.vault, "kv/data/other", map[string]any{"key": "changed"})
				after(10 * time.Minute)
				if got := p.file("other.env"); got != "key='changed'\n" {
					t.Errorf("the other file holds %q", got)
				}
			case "a start", "another start":
				c.terminate()
				c = p.start()
				after(time.Minute)
				p.wantReady()
			}
			if p.file("hash") != hash || p.file("time") != now {
				t.Errorf("%s changed %q to %q, %q to %q", change, hash, p.file("hash"), now, p.file("time"))
			}
		}
		v2(p.vault, "kv/data/app", map[string]any{"username": "grace"})
		after(10 * time.Minute)
		if got := p.file("hash"); got == hash || !strings.HasPrefix(got, "$2a$") {
			t.Errorf("the secret changed, and the file holds %q", got)
		}
		c.terminate()
	})
}

// A set that was published after the last note of what files were made of is
// not taken for the noted one.
func TestUnsteadyTemplateAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, template("hash", `{{ with secret "kv/app" }}{{ .Data.data.username | sprig_bcrypt }}{{ end }}`))
		c := p.start()
		after(time.Second)
		hash := p.file("hash")
		note := filepath.Join(p.dir, "private", keptInputs)
		noted, err := os.ReadFile(note)
		if err != nil {
			t.Fatal(err)
		}
		v2(p.vault, "kv/data/app", map[string]any{"username": "grace"})
		after(10 * time.Minute)
		if p.file("hash") == hash {
			t.Fatal("nothing changed")
		}
		// Killed before the note, and the secret is what it was.
		c.terminate()
		if err := os.WriteFile(note, noted, 0o600); err != nil {
			t.Fatal(err)
		}
		v2(p.vault, "kv/data/app", map[string]any{"username": "ada", "password": fixturePassword, "pin": json.Number(fixtureNumber)})
		changed := p.file("hash")
		c = p.start()
		after(time.Minute)
		if got := p.file("hash"); got == changed {
			t.Error("the file is that of the other secret")
		}
		c.terminate()
	})
}

// A template writes once, and again near the end of what it was given.
func TestTemplateWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, template("cert", `{{ with secret "pki/issue/app" "common_name=a.shop.svc" " ttl = 24h " }}{{ .Data.certificate }}{{ end }}`))
		p.issues(24 * time.Hour)
		c := p.start()
		after(time.Second)
		if got := p.file("cert"); got != "cert 1 of a.shop.svc" {
			t.Errorf("got %q", got)
		}
		after(12 * time.Hour)
		c.terminate()
		c = p.start()
		after(time.Minute)
		if n := count(p.vault.taken(), callIssue); n != 1 || p.file("cert") != "cert 1 of a.shop.svc" {
			t.Errorf("issued %d times, %q", n, p.file("cert"))
		}
		after(4 * time.Hour)
		if n := count(p.vault.taken(), callIssue); n != 1 || p.file("cert") != "cert 2 of a.shop.svc" {
			t.Errorf("near its end: issued %d times, %q", n, p.file("cert"))
		}
		c.terminate()
	})
}

// A list of names is read below metadata/ of a KV v2 engine; where nothing lies
// it is empty.
func TestTemplateLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, template("names", `{{ range secrets "kv/" }}{{ . }} {{ end }}`), template("team", `{{ range secrets "kv/data/team" }}{{ . }} {{ end }}`),
			template("none", `{{ range secrets "kv/none" }}{{ . }}{{ else }}none{{ end }}`), template("old", `{{ range secrets "old/team/" }}{{ . }} {{ end }}`))
		for path, names := range map[string][]any{"kv/metadata": {"b", "a/"}, "kv/metadata/team": {"x"}, "old/team": {"app"}} {
			p.vault.secrets[path] = map[string]any{"data": map[string]any{"keys": names}}
		}
		c := p.start()
		after(time.Second)
		for file, want := range map[string]string{"names": "a/ b ", "team": "x ", "none": "none", "old": "app "} {
			if got := p.file(file); got != want {
				t.Errorf("%s holds %q, want %q", file, got, want)
			}
		}
		c.terminate()
	})
}
