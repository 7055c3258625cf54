package vaulttest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

// A Postgres is one server with a database "postgres", which ends with the test.
type Postgres struct {
	Address  string // host:port; the address is its own
	Password string // of the superuser "postgres"

	t       testing.TB
	dir     string
	process *process
}

var postgresRoot = sync.OnceValues(func() (string, error) {
	return build.Postgres(context.Background(), "", os.Stderr)
})

// StartPostgres starts a PostgreSQL.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	p := &Postgres{t: t, Address: loopback(t), Password: rand.Text(), dir: filepath.Join(folder(t), "postgres")}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(p.dir, "password")
	if err := os.WriteFile(password, []byte(p.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	initdb := p.command("initdb", "-D", p.data(), "-U", "postgres", "--pwfile="+password,
		"-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("making the database: %v (it wants a user namespace; root may have one everywhere): %s", err, out)
	}
	access, err := os.OpenFile(filepath.Join(p.data(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer access.Close()
	if _, err := access.WriteString("host all all 127.0.0.0/8 scram-sha-256\n"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	p.Start()
	return p
}

// Start starts it again after Kill.
func (p *Postgres) Start() {
	p.t.Helper()
	host, port, _ := strings.Cut(p.Address, ":")
	cmd := p.command("postgres", "-D", p.data(), "-p", port, "-c", "listen_addresses="+host, "-c", "unix_socket_directories=",
		"-c", "timezone=GMT", "-c", "log_timezone=GMT", "-c", "jit=off", "-c", "fsync=off", "-c", "shared_buffers=16MB",
		"-c", "dynamic_shared_memory_type=mmap", "-c", "log_statement=all")
	var err error
	if p.process, err = launch(filepath.Join(p.dir, "postgres.log"), cmd); err != nil {
		p.t.Fatal(err)
	}
	Wait(p.t, "PostgreSQL at "+p.Address, func() error {
		if !p.process.running() {
			return fmt.Errorf("it has ended")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c, err := p.connect(ctx, "postgres", p.Password)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
}

// Kill ends it at once, with all sessions. Its data stays.
func (p *Postgres) Kill() { p.process.end(syscall.SIGKILL) }

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// command runs a program of PostgreSQL, which refuses to be root, as another
// user of namespaces of its own: to the machine it stays the test's user, so it
// can read a cache that only that one may enter, and what it leaves goes with it.
func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	root, err := postgresRoot()
	if err != nil {
		p.t.Fatal(err)
	}
	program, env, err := build.PostgresProgram(root, root, name)
	if err != nil {
		p.t.Fatal(err)
	}
	const nobody = 65534
	cmd := exec.Command(program, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// Connect opens a session as an app would.
func (p *Postgres) Connect(user, password string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.connect(ctx, user, password)
}

func (p *Postgres) connect(ctx context.Context, user, password string) (*pgx.Conn, error) {
	host, port, err := net.SplitHostPort(p.Address)
	if err != nil {
		return nil, err
	}
	return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%s user='%s' password='%s' dbname=postgres sslmode=disable", host, port, user, password))
}

// Query runs a statement as the superuser and returns its first column.
func (p *Postgres) Query(statement string) []string {
	p.t.Helper()
	c, err := p.Connect("postgres", p.Password)
	if err != nil {
		p.t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	defer c.Close(context.Background())
	rows, err := c.Query(context.Background(), statement)
	if err != nil {
		p.t.Fatalf("asking PostgreSQL: %v", err)
	}
	column, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		p.t.Fatalf("asking PostgreSQL: %v", err)
	}
	return column
}

// Users are the users that Vault has made.
func (p *Postgres) Users() []string {
	p.t.Helper()
	return p.Query(`SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'v-%' ORDER BY 1`)
}

// Database mounts the engine database for the server, under a connection
// "postgres", and makes a role "app" whose users live for ttl and at most for
// most.
func (v *Vault) Database(p *Postgres, ttl, most time.Duration) {
	v.t.Helper()
	v.Secret(p.Password)
	v.Mount("database", "database", api.MountConfigInput{})
	v.Write("database/config/postgres", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
		"connection_url": "postgresql://{{username}}:{{password}}@" + p.Address + "/postgres?sslmode=disable",
		"username":       "postgres", "password": p.Password,
	})
	v.Write("database/roles/app", map[string]any{
		"db_name": "postgres", "default_ttl": ttl.String(), "max_ttl": most.String(),
		"creation_statements": []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`},
		// As operators do it: a user that is revoked loses its sessions.
		"revocation_statements": []string{`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`, `DROP ROLE IF EXISTS "{{name}}"`},
	})
}
