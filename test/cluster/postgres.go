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
	"runtime"
	"slices"
	"strings"
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
	bin, env, err := s.postgresProgram("postgres")
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
	root, err := s.fetchPostgres(ctx)
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
	initdb, env, err := s.postgresProgram("initdb")
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
func (s *startup) postgresProgram(name string) (path string, env []string, err error) {
	root, err := s.postgresFolder()
	if err != nil {
		return "", nil, err
	}
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/postgresql/*/bin", name))
	if err != nil || len(found) != 1 {
		return "", nil, fmt.Errorf("finding %s in %s: got %d", name, root, len(found))
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil {
		return "", nil, err
	}
	for i, library := range libraries {
		libraries[i] = postgresDir + strings.TrimPrefix(library, root)
	}
	env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
	return postgresDir + strings.TrimPrefix(found[0], root), env, nil
}

// postgresFolder returns where the packages of this release are unpacked.
func (s *startup) postgresFolder() (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	name := "postgresql"
	for line := range strings.Lines(string(release)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key == "ID" || key == "VERSION_ID" {
			name += "-" + strings.Trim(value, `"`)
		}
	}
	return filepath.Join(filepath.Dir(s.dir), "packages", name+"-"+runtime.GOARCH), nil
}

// fetchPostgres unpacks the server, and the libraries that it needs and the machine lacks, into the cache.
func (s *startup) fetchPostgres(ctx context.Context) (string, error) {
	root, err := s.postgresFolder()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	s.say("fetching PostgreSQL's packages")
	packages, err := postgresPackages(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(root), "tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := build.AptGet(ctx, work, append([]string{"download"}, packages...)...); err != nil {
		return "", err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, archive := range archives {
		if _, err := output(ctx, work, "dpkg-deb", "-x", archive, "root"); err != nil {
			return "", err
		}
	}
	return root, os.Rename(filepath.Join(work, "root"), root)
}

// postgresPackages returns the distribution's default server and the libraries below it that are not installed.
func postgresPackages(ctx context.Context) ([]string, error) {
	out, err := output(ctx, "/", "apt-cache", "depends", "--important", "postgresql")
	if err != nil {
		return nil, err
	}
	_, server, found := strings.Cut(out, "Depends: ")
	if !found {
		if _, err := output(ctx, "/", "apt-get", "-q", "update"); err != nil {
			return nil, err
		}
		if out, err = output(ctx, "/", "apt-cache", "depends", "--important", "postgresql"); err != nil {
			return nil, err
		}
		if _, server, found = strings.Cut(out, "Depends: "); !found {
			return nil, errors.New("finding PostgreSQL: the distribution has no package postgresql")
		}
	}
	server = strings.Fields(server)[0]
	if out, err = output(ctx, "/", "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
		"--no-breaks", "--no-replaces", "--no-enhances", server); err != nil {
		return nil, err
	}
	packages := []string{server}
	for line := range strings.Lines(out) {
		name := strings.TrimSpace(line)
		// Names of packages stand at the start of a line. The compiler behind jit is large and off.
		if !strings.HasPrefix(line, "lib") || strings.HasPrefix(name, "libllvm") || strings.HasSuffix(name, "-perl") || slices.Contains(packages, name) {
			continue
		}
		if status, _ := output(ctx, "/", "dpkg-query", "-W", "-f", "${db:Status-Status}", name); status != "installed" {
			packages = append(packages, name)
		}
	}
	return packages, nil
}

// output runs a command of the machine and returns what it printed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(out), nil
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
