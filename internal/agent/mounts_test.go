package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

// A mount that was made anew with another version of KV is asked for again once
// its secret is not found.
func TestMountOfAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t, env("db.env", "kv/app"))
		c := p.start()
		after(time.Second)
		p.wantReady()
		p.vault.set(func() {
			p.vault.mounts["kv/"] = "kv 1"
			delete(p.vault.secrets, "kv/data/app")
			p.vault.secrets["kv/app"] = map[string]any{"data": map[string]any{"key": "of version 1"}}
		})
		after(15 * time.Minute)
		if got := p.file("db.env"); got != "key='of version 1'\n" {
			t.Errorf("the file holds %q", got)
		}
		c.terminate()
	})
}
