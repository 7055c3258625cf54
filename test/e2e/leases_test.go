package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// A database gives a pod a user that ends with the pod's Vault token.
type database struct {
	*harness.Space
	admin *pgx.Conn
	// names is how the names of its users begin.
	names string
}

// aDatabase makes users of the box's PostgreSQL the space's pods' to ask for, at
// db-<space>/creds/app, for an hour. The pods' tokens live for tokenTTL at most.
func aDatabase(t *testing.T, tokenTTL time.Duration) *database {
	t.Helper()
	address, password, err := suite.Postgres()
	if err != nil {
		t.Fatal(err)
	}
	s := suite.Space(t)
	s.Keep("the database's password", password)
	config, err := pgx.ParseConfig("postgres://" + address + "/postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Password = "postgres", password
	admin, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close(context.Background()) })

	mount := "db-" + s.Name
	s.VaultWrite("sys/mounts/"+mount, map[string]any{"type": "database"})
	t.Cleanup(func() {
		if _, err := s.Root.Logical().Delete("sys/mounts/" + mount); err != nil {
			t.Error(err)
		}
	})
	s.VaultWrite(mount+"/config/db", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "app",
		"connection_url": "postgresql://{{username}}:{{password}}@" + address + "/postgres?sslmode=disable",
		"username":       "postgres", "password": password,
		"username_template": s.Name + "-{{random 12}}",
	})
	s.VaultWrite(mount+"/roles/app", map[string]any{
		"db_name": "db", "default_ttl": "1h", "max_ttl": "1h",
		"creation_statements": []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		// A role that is only dropped leaves its sessions open.
		"revocation_statements": []string{
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`,
			`DROP ROLE IF EXISTS "{{name}}"`,
		},
	})
	s.ServiceAccount("app")
	if err := s.WriteRole(t.Context(), cluster.Role{
		Name: s.Name, Namespaces: []string{s.Name}, ServiceAccounts: []string{"app"}, Audience: harness.Audience,
		Policy: `path "` + mount + `/creds/app" { capabilities = ["read"] }`, TTL: tokenTTL, MaxTTL: tokenTTL,
	}); err != nil {
		t.Fatal(err)
	}
	return &database{s, admin, s.Name + "-"}
}

// users are those that there are, in the database itself.
func (d *database) users() []string {
	d.Helper()
	rows, err := d.admin.Query(d.Context(), "select rolname from pg_roles where starts_with(rolname, $1) order by rolname", d.names)
	if err != nil {
		d.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.Fatal(err)
	}
	return names
}

// waitGone waits until the database has no such user.
func (d *database) waitGone(user string) {
	d.Helper()
	poll(d.TB.(*testing.T), "user "+user+" to be gone", func() bool { return !slices.Contains(d.users(), user) })
}

// keepPassword says that the password which the app was given may be shown nowhere.
func (d *database) keepPassword(p *corev1.Pod) {
	d.Helper()
	env := string(d.ReadFile(p, "app", "/vault/secrets/db.env"))
	_, password, _ := strings.Cut(env, "password='")
	password, _, _ = strings.Cut(password, "'")
	d.Keep("the password of a database user", password)
}

// wants are the annotations of a pod that wants a user of the database.
func (d *database) wants(more ...string) string {
	return filesOf(d.Space, "- {path: db.env, secret: db-"+d.Name+"/creds/app, format: env}", more...)
}

// app is a pod that uses the database, and is told when its user is another.
func (d *database) app(name string, annotations string, args ...string) pod {
	p := pod{name: name, annotations: annotations, program: databaseApp(d.TB.(*testing.T))}
	p.args = append([]string{"-database", cluster.PostgresAddress}, args...)
	return p
}

const notified = "latchkey.dev/notify: |\n  - http: {url: \"http://127.0.0.1:8080/reload\"}"

// databaseApp builds the app and loads its image, once.
func databaseApp(t *testing.T) (image string) {
	t.Helper()
	appImage.Do(func() {
		const name = "dbapp:box"
		dir := t.TempDir()
		binary, tar := filepath.Join(dir, "dbapp"), filepath.Join(dir, "dbapp.tar")
		for _, args := range [][]string{
			{"go", "build", "-ldflags", "-s -w", "-o", binary, "./dbapp"},
			{suite.Tool("images"), "-o", tar, "-level", "0", "-name", name, "-entrypoint", "/dbapp", "-user", "65532:65532", binary + "=/dbapp"},
		} {
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Dir, cmd.Env = filepath.Join(harness.Checkout(), "test"), append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("running %s: %v\n%s", args, err, out)
			}
		}
		box, err := cluster.DefaultBox()
		if err != nil {
			t.Fatal(err)
		}
		if err := box.Load(t.Context(), tar); err != nil {
			t.Fatal(err)
		}
	})
	return "dbapp:box"
}

var appImage sync.Once

// sessions reads what the app prints of its sessions.
type sessions []struct {
	at         time.Time
	user, what string
}

var sessionLine = regexp.MustCompile(`(?m)^(\S+) session of (\S+) (begins|ends)`)

func (d *database) sessions(pod string) sessions {
	d.Helper()
	var out sessions
	for _, m := range sessionLine.FindAllStringSubmatch(d.Logs(pod, "app"), -1) {
		at, err := time.Parse(time.RFC3339Nano, m[1])
		if err != nil {
			d.Fatal(err)
		}
		out = append(out, struct {
			at         time.Time
			user, what string
		}{at, m[2], m[3]})
	}
	return out
}

// index is where a user's session begins or ends, or -1.
func (s sessions) index(user, what string) int {
	for i, e := range s {
		if e.user == user && e.what == what {
			return i
		}
	}
	return -1
}

// An app whose Vault token comes to its end goes on without a gap: the agent
// logs in again before it, tells the app of its new user, and lets the old one
// go only when the app had the time to change over.
func TestSessionSurvivesTheTokenUnderIt(t *testing.T) {
	t.Parallel()
	const grace = 6 * time.Second
	d := aDatabase(t, 45*time.Second)
	connect(t, d.Space, map[string]any{"defaults": map[string]any{"retireGrace": grace.String()}})
	d.Create(d.app("app", d.wants(notified)).String())
	p := d.WaitPod("app", "ready", harness.Ready)
	d.keepPassword(p)
	d.WaitLog("app", "app", "begins")
	first := d.sessions("app")[0].user

	var now sessions
	poll(t, "the app to have a session of another user", func() bool { now = d.sessions("app"); return len(now) > 1 })
	second := now[1]
	if second.what != "begins" || second.user == first {
		t.Fatalf("the first session ended before the second began: %v", now)
	}
	d.keepPassword(p)
	d.waitGone(first)
	poll(t, "the first session to end", func() bool { now = d.sessions("app"); return now.index(first, "ends") >= 0 })
	end := now[now.index(first, "ends")]
	kept := end.at.Sub(second.at)
	t.Logf("the first user's session ended %s after the second's began", kept.Round(time.Millisecond))
	if kept < grace {
		t.Errorf("the first user's session was cut %s after the app was told, want it to have %s", kept, grace)
	}
	// Its token's own end, a third of its life after the login, would be later.
	if !slices.Contains(d.Audit(), "update auth/token/revoke-self") {
		t.Errorf("the old token was not revoked:\n%s", strings.Join(d.Audit(), "\n"))
	}
	p = d.WaitPod("app", "ready", harness.Ready)
	if harness.Agent(p).RestartCount+p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("something was restarted")
	}
}

// An agent that comes back, again and again, has the user that it had.
func TestRestartedAgentKeepsItsUser(t *testing.T) {
	t.Parallel()
	d := aDatabase(t, time.Hour)
	d.Create(d.app("app", d.wants(notified)).String())
	p := d.WaitPod("app", "ready", harness.Ready)
	d.keepPassword(p)
	d.WaitLog("app", "app", "begins")
	before := d.users()
	for restarts := range int32(3) {
		d.Signal(p, "latchkey-agent", syscall.SIGKILL)
		p = d.WaitPod("app", "ready with a restarted agent", func(p *corev1.Pod) bool {
			a := harness.Agent(p)
			return harness.Ready(p) && a.RestartCount == restarts+1 && a.Ready && a.State.Running != nil
		})
	}
	if after := d.users(); len(before) != 1 || !slices.Equal(before, after) {
		t.Errorf("the database's users were %q and are %q, want the same one", before, after)
	}
	if s := d.sessions("app"); len(s) != 1 {
		t.Errorf("the app's sessions: %v, want one that goes on", s)
	}
	calls := d.Audit()
	for _, call := range []string{"update auth/kubernetes/login", "read db-" + d.Name + "/creds/app"} {
		if n := count(calls, call); n != 1 {
			t.Errorf("%d × %s, want 1:\n%s", n, call, strings.Join(calls, "\n"))
		}
	}
}

// A Job is done when its app is, and its user goes with it; what an init
// container's agent has left to the app stays.
func TestUserEndsWithItsJobAndStaysAfterInit(t *testing.T) {
	t.Parallel()
	d := aDatabase(t, time.Hour)
	job := d.app("", d.wants(), "-once")
	job.spec = "restartPolicy: Never"
	d.Create("apiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec:\n  backoffLimit: 0\n  template:\n" + indent(4, job.template()))
	d.WaitJob("job", "complete", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 })
	poll(t, "the Job's user to be gone", func() bool { return len(d.users()) == 0 })

	d.Create(d.app("init", d.wants("latchkey.dev/lifecycle: init")).String())
	p := d.WaitPod("init", "ready", harness.Ready)
	d.WaitLog("init", "app", "begins")
	if a := harness.Agent(p); a.State.Terminated == nil || a.State.Terminated.ExitCode != 0 {
		t.Errorf("the agent is %+v, want it done", a.State)
	}
	revocations := count(d.Audit(), "update auth/token/revoke-self")
	if users := d.users(); len(users) != 1 || revocations != 1 {
		t.Errorf("the users are %q after %d revocations, want the one of the pod with lifecycle init, and the Job's token alone revoked", users, revocations)
	}
	if s := d.sessions("init"); len(s) != 1 {
		t.Errorf("the app's sessions: %v, want one that goes on", s)
	}
}
