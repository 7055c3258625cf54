package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const (
	credsCall  = "read database/creds/app"
	renewLease = "update sys/leases/renew"
	revokeSelf = "update auth/token/revoke-self"
)

var databaseFile = config.File{Path: "db.json", Secret: "database/creds/app", Format: config.FormatJSON}

// A user is one of the database as an app finds it in its file.
type user struct{ Username, Password string }

func readUser(v *vaulttest.Vault, a *vaulttest.Agent) (user, error) {
	content, err := a.File("db.json")
	if err != nil {
		return user{}, err
	}
	var u user
	if err := json.Unmarshal([]byte(content), &u); err != nil {
		return user{}, fmt.Errorf("%q: %w", content, err)
	}
	v.Secret(u.Username)
	v.Secret(u.Password)
	return u, nil
}

// database starts an agent whose role may have users of a PostgreSQL.
func database(t *testing.T, ttl, most time.Duration, settings map[string]any) (*vaulttest.Vault, *vaulttest.Postgres, *vaulttest.Agent) {
	t.Helper()
	db, v := vaulttest.StartPostgres(t), vaulttest.Start(t, vaulttest.Options{})
	v.Database(db, ttl, most)
	v.Role("app", vaulttest.Read("database/creds/app"), settings)
	return v, db, v.Agent("app", databaseFile)
}

// opened is a session of the user that the file names now.
func opened(t *testing.T, v *vaulttest.Vault, db *vaulttest.Postgres, a *vaulttest.Agent) (user, *pgx.Conn) {
	t.Helper()
	u, err := readUser(v, a)
	if err != nil {
		t.Fatal(err)
	}
	c, err := db.Connect(u.Username, u.Password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // it may have been cut, which is tested
	return u, c
}

// A lease is renewed for as long as it can be, and one user serves all files.
func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, 15*time.Second, time.Hour, nil)
	a.Config.Files = append(a.Config.Files, config.File{Path: "user", Secret: "database/creds/app", Format: config.FormatRaw, Key: "username", Mode: 0o440})
	a.Start()
	a.WaitReady()
	first, session := opened(t, v, db, a)
	vaulttest.Wait(t, "two renewals", func() error { return atLeast(v, 2, renewLease) })
	if now, err := readUser(v, a); now != first {
		t.Errorf("the user was replaced although its lease can be renewed (%v)", err)
	}
	if err := session.Ping(t.Context()); err != nil {
		t.Errorf("the app's session: %v", err)
	}
	if err := is(a, "user", first.Username)(); err != nil {
		t.Error(err)
	}
	wantCount(t, v, 1, credsCall)
	wantCount(t, v, 1, loginCall)
	if users := db.Users(); len(users) != 1 {
		t.Errorf("users %q, want one", users)
	}
}

// Near the end of what a lease can have, the user is replaced: an app that
// reads its file finds a user that works, at every moment.
func TestLeaseIsReplaced(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, 12*time.Second, 30*time.Second, nil)
	a.Start()
	a.WaitReady()
	vaulttest.Wait(t, "the second replacement", func() error {
		u, err := readUser(v, a)
		if err != nil {
			t.Fatal(err)
		}
		session, err := db.Connect(u.Username, u.Password)
		if err != nil {
			// It may have been replaced between the reading and the connecting.
			if now, _ := readUser(v, a); now == u {
				t.Fatalf("the user in the file does not work: %v", err)
			}
			return err
		}
		defer session.Close(context.Background())
		return atLeast(v, 3, credsCall)
	})
	wantCount(t, v, 1, loginCall)
}

// anApp holds a session of the database, uses it all the while, and opens
// another one when it is told that its files have changed.
type anApp struct {
	t       *testing.T
	connect func() (user, *pgx.Conn)
	url     string

	mu      sync.Mutex
	session *pgx.Conn
	told    []time.Time
	users   []user // whose sessions it has had
	queries int
}

func startApp(t *testing.T, connect func() (user, *pgx.Conn)) *anApp {
	t.Helper()
	app := &anApp{t: t, connect: connect}
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	app.url = server.URL
	return app
}

// ServeHTTP is the notification.
func (app *anApp) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.told = append(app.told, time.Now())
	app.open()
}

func (app *anApp) open() {
	u, session := app.connect()
	app.session, app.users = session, append(app.users, u)
}

// use makes one query.
func (app *anApp) use() error {
	app.mu.Lock()
	defer app.mu.Unlock()
	app.queries++
	return app.session.Ping(context.Background())
}

func (app *anApp) state() (told []time.Time, users []user) {
	app.mu.Lock()
	defer app.mu.Unlock()
	return app.told, app.users
}

// The token's end is the end of its leases, so the agent logs in before it, and
// reads again. An app that reconnects when it is told never sees its session cut;
// what it used before ends after the grace, and not sooner.
func TestSessionSurvivesLogin(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second
	v, db, a := database(t, time.Hour, time.Hour, map[string]any{"token_ttl": "45s", "token_max_ttl": "45s"})
	v.Policy("app", vaulttest.Read("database/creds/app", "kv/data/app"))
	v.KV("app", map[string]any{"password": "first-password"})
	kv := raw("password", "kv/app", "password")
	kv.Mode, kv.Refresh = 0o440, long
	a.Config.Files = append(a.Config.Files, kv)
	app := startApp(t, func() (user, *pgx.Conn) { return opened(t, v, db, a) })
	a.Config.Notify = []config.Notification{{HTTP: &config.HTTPRequest{URL: app.url}}}
	a.Config.RetireGrace = config.Duration(grace)
	a.Start()
	a.WaitReady()
	app.open()
	vaulttest.Wait(t, "the old token to be revoked", func() error {
		if err := app.use(); err != nil {
			t.Fatalf("the app's session was cut: %v (calls: %q)", err, v.Calls())
		}
		return atLeast(v, 1, revokeSelf)
	})
	told, users := app.state()
	if len(told) != 1 || len(users) != 2 || users[0] == users[1] {
		t.Fatalf("told %d times, users %d (want one notification and another user)", len(told), len(users))
	}
	for _, e := range v.Audit() {
		if e.String() == revokeSelf && e.Time.Before(told[0].Add(grace)) {
			t.Errorf("the old token was revoked %s after the app was told, want %s or more", e.Time.Sub(told[0]), grace)
		}
	}
	vaulttest.Wait(t, "the old user to go", func() error {
		if users := db.Users(); len(users) != 1 {
			return fmt.Errorf("users: %q", users)
		}
		return app.use()
	})
	wantCount(t, v, 2, loginCall)
	wantCount(t, v, 2, credsCall)
	wantCount(t, v, 1, "read kv/data/app") // it does not end with the token
}

// An app that could not be told may still use what it had: it ends with the old
// token's life, and no sooner. The notification is tried again all the while.
func TestUntoldAppKeepsItsSession(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, map[string]any{"token_ttl": "30s", "token_max_ttl": "30s"})
	var tries atomic.Int64
	deaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}))
	t.Cleanup(deaf.Close)
	a.Config.Notify = []config.Notification{{HTTP: &config.HTTPRequest{URL: deaf.URL}}}
	a.Config.RetireGrace = config.Duration(time.Second)
	a.Start()
	a.WaitReady()
	first, _ := opened(t, v, db, a)
	vaulttest.Wait(t, "the first user's end", func() error {
		if users := db.Users(); slices.Contains(users, first.Username) {
			return fmt.Errorf("users: %q", users)
		}
		return nil
	})
	wantCount(t, v, 0, revokeSelf)
	if tries.Load() < 2 {
		t.Errorf("%d tries to tell the app, want several", tries.Load())
	}
	if err := lives(v, db, a); err != nil {
		t.Errorf("the user in the file: %v", err)
	}
}

// A container that ends in any way goes on with the user that it has.
func TestRestartKeepsUser(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	a.Start()
	a.WaitReady()
	first, session := opened(t, v, db, a)
	for range 3 {
		a.Kill()
		before := len(a.Log())
		a.Start()
		a.WaitLog(before, "token of an earlier run")
		vaulttest.Wait(t, "the lease to be taken over", func() error { return atLeast(v, 1, renewLease) })
	}
	if now, err := readUser(v, a); now != first {
		t.Errorf("another user after a restart (%v)", err)
	}
	if err := session.Ping(t.Context()); err != nil {
		t.Errorf("the app's session: %v", err)
	}
	wantCount(t, v, 1, loginCall)
	wantCount(t, v, 1, credsCall)
	if users := db.Users(); len(users) != 1 {
		t.Errorf("users %q, want one", users)
	}
}

// With the pod's end goes its user, and no app may start on what is dead.
func TestEndRevokesUser(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	a.Start()
	a.WaitReady()
	first, _ := opened(t, v, db, a)
	if code := a.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	vaulttest.Wait(t, "the user to go", func() error {
		if users := db.Users(); len(users) > 0 {
			return fmt.Errorf("users: %q", users)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(a.Volume, config.OutName)); !os.IsNotExist(err) {
		t.Errorf("the gate is open: %v", err)
	}
	// It was only the container that ended: the next one makes all anew.
	a.Start()
	a.WaitReady()
	if now, _ := opened(t, v, db, a); now == first {
		t.Error("the dead user is still in the file")
	}
}

// What an init container leaves is good for the app that follows it.
func TestInitKeepsUser(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	a.Config.Lifecycle = config.Init
	a.Start()
	if code := a.WaitEnd(); code != 0 {
		t.Fatalf("exit code %d: %s", code, a.LastWords())
	}
	_, session := opened(t, v, db, a)
	if err := session.Ping(t.Context()); err != nil {
		t.Errorf("the app's session: %v", err)
	}
	wantCount(t, v, 0, revokeSelf)
}

// The password of a static role is Vault's to change; the agent reads it when
// Vault said that it would, whatever the refresh.
func TestStaticRole(t *testing.T) {
	t.Parallel()
	v, db, _ := database(t, time.Hour, time.Hour, nil)
	db.Query(`CREATE ROLE fixed LOGIN PASSWORD 'before-vault' `)
	v.Write("database/static-roles/fixed", map[string]any{"db_name": "postgres", "username": "fixed", "rotation_period": "15s"})
	v.Role("fixed", vaulttest.Read("database/static-creds/fixed"), nil)
	a := v.Agent("fixed", raw("password", "database/static-creds/fixed", "password"))
	a.Config.Refresh = long
	a.Start()
	a.WaitReady()
	before := ""
	for range 3 {
		before = v.Secret(a.WaitChange("password", before))
		session, err := db.Connect("fixed", before)
		if err != nil {
			// Vault may have changed it again meanwhile.
			if now, _ := a.File("password"); now == before {
				t.Errorf("the password in the file: %v", err)
			}
			continue
		}
		session.Close(t.Context())
	}
	wantCount(t, v, 1, loginCall)
}

// lives reports an error while the user in the file does not work.
func lives(v *vaulttest.Vault, db *vaulttest.Postgres, a *vaulttest.Agent) error {
	u, err := readUser(v, a)
	if err != nil {
		return err
	}
	session, err := db.Connect(u.Username, u.Password)
	if err != nil {
		return err
	}
	return session.Close(context.Background())
}

// A lease that an operator has revoked is found out at its renewal, which is the
// first that an agent does with it that is started again.
func TestRevokedLease(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, nil)
	a.Start()
	a.WaitReady()
	first, _ := opened(t, v, db, a)
	a.Kill()
	v.Write("sys/leases/revoke-prefix/database/creds/app", nil)
	a.Start()
	vaulttest.Wait(t, "another user", func() error {
		if now, err := readUser(v, a); err != nil || now == first {
			return fmt.Errorf("the file has the user that was revoked (%v)", err)
		}
		return lives(v, db, a)
	})
	wantCount(t, v, 1, loginCall)
	wantCount(t, v, 2, credsCall)
	if log := a.Log(); strings.Contains(log, `"WARN"`) || strings.Contains(log, `"ERROR"`) {
		t.Errorf("what is made good at once is no trouble:\n%s", log)
	}
}

// A revoked token takes its leases with it: all of them are made anew.
func TestRevokedTokenTakesItsLeases(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, time.Hour, time.Hour, map[string]any{"token_ttl": "1h"})
	v.Policy("app", vaulttest.Read("database/creds/app", "kv/data/app"))
	v.KV("app", map[string]any{"password": "first-password"})
	a.Config.Files = append(a.Config.Files, config.File{Path: "password", Secret: "kv/app", Format: config.FormatRaw, Key: "password", Mode: 0o440})
	a.Start()
	a.WaitReady()
	first, _ := opened(t, v, db, a)
	accessor := ""
	for _, e := range v.Audit() {
		if e.String() == credsCall {
			accessor = e.Accessor
		}
	}
	v.Write("auth/token/revoke-accessor", map[string]any{"accessor": accessor})
	vaulttest.Wait(t, "another user", func() error {
		if now, err := readUser(v, a); err != nil || now == first {
			return fmt.Errorf("the file has the user that was revoked (%v)", err)
		}
		return lives(v, db, a)
	})
	wantCount(t, v, 2, loginCall)
	wantCount(t, v, 2, credsCall)
}

// Where nothing can be renewed, everything is replaced in time: without the
// default policy a token renews neither itself nor its leases, and what a batch
// token takes ends with it.
func TestUnrenewable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ttl      time.Duration // of the lease
		settings map[string]any
		logins   int // at the third user
	}{
		"no default policy": {30 * time.Second, map[string]any{"token_no_default_policy": true}, 1},
		"batch":             {time.Hour, map[string]any{"token_type": "batch", "token_ttl": "30s", "token_max_ttl": "30s"}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, db, a := database(t, c.ttl, time.Hour, c.settings)
			a.Start()
			a.WaitReady()
			vaulttest.Wait(t, "the third user", func() error {
				if err := lives(v, db, a); err != nil {
					// It may have been replaced while it was tried.
					if err := lives(v, db, a); err != nil {
						t.Fatalf("the user in the file does not work: %v", err)
					}
				}
				return atLeast(v, 3, credsCall)
			})
			if n := v.Count(loginCall); n > c.logins {
				t.Errorf("%d logins for three users, want %d", n, c.logins)
			}
			wantCount(t, v, 0, revokeSelf)
		})
	}
}

// What fails, fails alone: the others move on, the file stays, and the trouble
// ends by itself.
func TestFailsAlone(t *testing.T) {
	t.Parallel()
	v, db, a := database(t, 15*time.Second, 30*time.Second, nil)
	v.Policy("app", vaulttest.Read("database/creds/app", "kv/data/app"))
	v.KV("app", map[string]any{"password": "first-password"})
	a.Config.Files = append(a.Config.Files, config.File{Path: "password", Secret: "kv/app", Format: config.FormatRaw, Key: "password", Mode: 0o440})
	a.Start()
	a.WaitReady()
	opened(t, v, db, a)
	content, _ := a.File("db.json")
	role := v.Get("database/roles/app")
	before := len(a.Log())
	v.Delete("database/roles/app")
	a.WaitLog(before, "database/creds/app", `db.json`)
	v.KV("app", map[string]any{"password": "second-password"})
	a.WaitFile("password", "second-password")
	if err := is(a, "db.json", content)(); err != nil {
		t.Error(err)
	}
	if ok, reason := a.Ready(); !ok {
		t.Errorf("not ready: %s", reason)
	}
	v.Write("database/roles/app", role)
	vaulttest.Wait(t, "another user", func() error {
		if now, _ := a.File("db.json"); now == content {
			return fmt.Errorf("the file has the user from before")
		}
		return lives(v, db, a)
	})
	wantCount(t, v, 1, loginCall)
}
