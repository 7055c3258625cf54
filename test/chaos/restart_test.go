package chaos

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const restarts = 50

// An agent that crashes again and again costs Vault no login and the database no
// user: token and lease of its first run go on.
func TestRestartsMintNothing(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	db := vaulttest.StartPostgres(t)
	v.Database(db, time.Hour, 24*time.Hour)
	v.Role("app", vaulttest.Read("database/creds/app", "kv/data/app"), nil)
	v.KV("app", map[string]any{"password": "password-of-the-app"})
	a := v.Agent("app",
		config.File{Path: "db.env", Secret: "database/creds/app", Format: config.FormatEnv},
		config.File{Path: "app.env", Secret: "kv/app", Format: config.FormatEnv},
	)
	a.Start()
	a.WaitReady()
	before, err := a.File("db.env")
	if err != nil {
		t.Fatal(err)
	}
	const renewal = "update sys/leases/renew"
	for i := range restarts {
		a.Kill()
		renewed := v.Count(renewal)
		a.Start()
		if i%2 == 0 {
			// Whenever that is, on its way to where the others get.
			<-time.After(rand.N(50 * time.Millisecond))
			continue
		}
		vaulttest.Wait(t, "the lease to be taken up", func() error {
			if n := v.Count(renewal); n <= renewed {
				return fmt.Errorf("restart %d: %d renewals of the lease, as before", i, n)
			}
			return nil
		})
	}
	logins, reads, users := v.Count("update auth/kubernetes/login"), v.Count("read database/creds/app"), db.Users()
	t.Logf("%d restarts: %d login, %d read of credentials, %d user of the database, %d renewals of the lease", restarts, logins, reads, len(users), v.Count(renewal))
	if logins != 1 || reads != 1 || len(users) != 1 {
		t.Errorf("want one login, one read and one user, and there are the users %q", users)
	}
	if now, err := a.File("db.env"); now != before {
		t.Errorf("db.env has changed (%v)", err)
	}
	for _, call := range v.Calls() {
		if call == "update auth/token/revoke-self" || call == "update sys/leases/revoke" {
			t.Errorf("something was revoked: %s", call)
		}
	}
}
