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
