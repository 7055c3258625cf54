package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

const (
	// PostgresAddress is where the box's PostgreSQL listens once it was started; its superuser is "postgres".
	PostgresAddress = NodeIP + ":5432"

	nobody      = 65534               // PostgreSQL refuses to run as root, and wants a user that has a name
	postgresDir = "/run/postgresql"   // the unpacked packages, inside the box
	postgresVar = "/var/lib/postgres" // the data, inside the box
)

// StartPostgres starts PostgreSQL on the node's address, unless it runs. It is unpacked from the distribution's packages,
// not installed, since that would start a service on the machine.
func (b Box) StartPostgres(ctx context.Context, o Options) error {
	r, err := b.running()
	if err != nil {
		return err
	}
	unlock, err := b.lock(ctx, o.Log)
	if err != nil {
		return err
	}
	defer unlock()
	s := &startup{Box: b, Options: o, began: time.Now(), record: r}
	if _, err := os.Stat(s.path("postgres-password")); errors.Is(err, fs.ErrNotExist) {
		if err := s.preparePostgres(ctx); err != nil {
			return fmt.Errorf("preparing PostgreSQL: %w", err)
		}
	}
	bin, env, err := s.postgresProgram(ctx, "postgres")
	if err != nil {
		return err
	}
	if err := s.start([]Command{{Name: "postgres", Path: bin, Env: env, User: nobody, Args: []string{
		"-D", postgresVar, "-c", "listen_addresses=" + NodeIP, "-c", "unix_socket_directories=", "-c", "timezone=GMT", "-c", "log_timezone=GMT",
		"-c", "jit=off", "-c", "fsync=off", "-c", "shared_buffers=32MB",
		"-c", "dynamic_shared_memory_type=mmap", // a kill would leave a file in the machine's /dev/shm
	}}}); err != nil {
		return err
	}
	return s.wait(ctx, "PostgreSQL at "+PostgresAddress, patience, func(ctx context.Context) error {
		conn, err := b.dial(ctx, "tcp", PostgresAddress)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// preparePostgres makes the database's files, and the superuser's password, which is written last.
func (s *startup) preparePostgres(ctx context.Context) error {
	root, err := build.Postgres(ctx, filepath.Dir(s.dir), s.Log)
	if err != nil {
		return err
	}
	// The cache may lie in a home that only its owner can enter, so it gets a place inside the box that all can.
	for _, args := range [][]string{{"mkdir", "-p", postgresDir}, {"mount", "--bind", root, postgresDir}} {
		if out, err := s.inside(ctx, s.record.Init, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("running %s: %w: %s", args[0], err, out)
		}
	}
	data := s.path(postgresVar)
	if err := os.RemoveAll(data); err != nil { // of an attempt that was broken off
		return err
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	password := rand.Text()
	passwordFile := data + ".password"
	if err := writeFile(passwordFile, []byte(password), 0o600); err != nil {
		return err
	}
	defer os.Remove(passwordFile)
	for _, path := range []string{data, passwordFile} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			return err
		}
	}
	initdb, env, err := s.postgresProgram(ctx, "initdb")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(s.record.Init.PID), "-m", "-n", "-p",
		"-S", fmt.Sprint(nobody), "-G", fmt.Sprint(nobody), "--",
		initdb, "-D", postgresVar, "-U", "postgres", "--pwfile="+postgresVar+".password", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the database: %w: %s", err, out)
	}
	access, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = access.WriteString("host all all 0.0.0.0/0 scram-sha-256\n")
	if err = errors.Join(err, access.Close()); err != nil {
		return err
	}
	return writeFile(s.path("postgres-password"), []byte(password), 0o600)
}

// postgresProgram returns the path of a program inside the box and the environment that it finds its libraries with.
func (s *startup) postgresProgram(ctx context.Context, name string) (path string, env []string, err error) {
	root, err := build.Postgres(ctx, filepath.Dir(s.dir), s.Log)
	if err != nil {
		return "", nil, err
	}
	return build.PostgresProgram(root, postgresDir, name)
}

// Postgres returns the address (host:port) of the box's PostgreSQL and the password of its superuser "postgres".
func (c *Cluster) Postgres() (address, password string, err error) {
	if c.box == nil {
		return "", "", errors.New("the cluster is not the box, so its PostgreSQL is not known")
	}
	data, err := os.ReadFile(c.box.path("postgres-password"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", errors.New("PostgreSQL was not started (start it with `bin/cluster postgres up`)")
	}
	return PostgresAddress, string(data), err
}
