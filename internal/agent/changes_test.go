package agent

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"
)

// The time until a static role is rotated goes by with each read. That makes no
// file another, and no app is told; a rotation does.
func TestStaticRoleCountsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "db/static-creds/app"))
		p.conf.Notify = notifyApp
		role := func(password, ttl, rotated string) {
			p.vault.set(func() {
				p.vault.secrets["db/static-creds/app"] = map[string]any{"data": map[string]any{
					"password": password, "ttl": json.Number(ttl), "rotation_period": json.Number("86400"), "last_vault_rotation": rotated,
				}}
			})
		}
		role("first-password", "86000", "2000-01-01T00:00:00Z")
		c := p.start()
		after(time.Second)
		p.wantReady()
		was := p.file("db.env")
		role("first-password", "85000", "2000-01-01T00:00:00Z")
		after(20 * time.Minute)
		if got := p.file("db.env"); got != was {
			t.Errorf("%q became %q", was, got)
		}
		if heard, _ := p.app.taken(); len(heard) != 0 {
			t.Errorf("the app was told of nothing: %q", heard)
		}
		role("other-password", "86399", "2000-01-01T00:20:00Z")
		after(6 * time.Minute)
		if want := "last_vault_rotation='2000-01-01T00:20:00Z'\npassword='other-password'\nrotation_period='86400'\nttl='86399'\n"; p.file("db.env") != want {
			t.Errorf("after the rotation: %q, want %q", p.file("db.env"), want)
		}
		if heard, _ := p.app.taken(); len(heard) != len(notifyApp) {
			t.Errorf("told of the rotation: %q", heard)
		}
		c.terminate()
	})
}
