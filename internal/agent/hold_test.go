package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// The lease in a file that cannot be made anew, since another secret of it is gone,
// lives on: the file's last good bytes stay, and they must work.
func TestLeaseOfFileThatFails(t *testing.T) {
	const creds, app = `{{ with secret "db/creds/app" }}{{ .Data.username }}{{ end }}`, `{{ with secret "kv/app" }}{{ end }}`
	for name, c := range map[string]struct {
		template string
		restart  bool
	}{
		"lease first":                 {creds + app, false},
		"lease last":                  {app + creds, false},
		"lease last, and another run": {app + creds, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t, config.File{Path: "user", Template: c.template})
				p.conf.Refresh = config.Duration(24 * time.Hour)
				run := p.start()
				after(time.Second)
				p.vault.set(func() { delete(p.vault.secrets, "kv/data/app") })
				if c.restart {
					p = p.kill(run)
					run = p.start()
				}
				after(time.Second)
				p.vault.taken()
				p.wantWorking("user", 5*time.Hour, time.Minute)
				if n := count(p.vault.taken(), callLease); p.vault.given() != 1 || n < 28 || n > 36 {
					t.Errorf("%d given, renewed %d times", p.vault.given(), n)
				}
				run.terminate()
			})
		})
	}
}

// What a file that cannot be made has asked for is asked for once, not at each try.
func TestLeaseForFileThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, config.File{Path: "user", Template: `{{ with secret "kv/app" }}{{ with secret .Data.data.at }}{{ .Data.username }}{{ end }}{{ end }}{{ with secret "kv/other" }}{{ end }}`})
		p.vault.engines["db/creds/next"] = &fakeEngine{ttl: time.Hour, max: 24 * time.Hour}
		v2(p.vault, "kv/data/app", map[string]any{"at": "db/creds/app"})
		run := p.start()
		after(time.Second)
		p.wantReady()
		v2(p.vault, "kv/data/app", map[string]any{"at": "db/creds/next"})
		p.vault.set(func() { delete(p.vault.secrets, "kv/data/other") })
		p.wantWorking("user", 5*time.Hour, time.Minute)
		if n := p.vault.engines["db/creds/next"].made; n != 1 || p.keptAnswers() != 2 {
			t.Errorf("%d given, %d kept", n, p.keptAnswers())
		}
		v2(p.vault, "kv/data/other", map[string]any{})
		after(6 * time.Minute)
		if n := p.vault.engines["db/creds/next"].made; n != 1 || p.keptAnswers() != 1 || p.file("user") != "user-1" {
			t.Errorf("%d given, %d kept, the file holds %q", n, p.keptAnswers(), p.file("user"))
		}
		run.terminate()
	})
}
