package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Postgres returns the folder that the distribution's PostgreSQL is unpacked in, after fetching what the cache lacks. It is
// unpacked and not installed, since that would start a service on the machine. Two runs at once fetch once. Cache and log are
// those of Options.
func Postgres(ctx context.Context, cache string, log io.Writer) (root string, err error) {
	b, err := newBuilder(Options{Root: ".", Cache: cache, Log: log}) // nothing is built, so any root will do
	if err != nil {
		return "", err
	}
	if root, err = b.postgresFolder(); err != nil || exists(root) {
		return root, err
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(root) { // another run has fetched it
		return root, nil
	}
	stop := b.report("fetching PostgreSQL's packages")
	defer stop()
	if err := fetchPostgres(ctx, root); err != nil {
		return "", fmt.Errorf("fetching PostgreSQL: %w", err)
	}
	return root, nil
}

// PostgresProgram returns the path of a program of PostgreSQL, and the environment that it finds its libraries with, where
// root is mounted at mount.
func PostgresProgram(root, mount, name string) (path string, env []string, err error) {
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/postgresql/*/bin", name))
	if err != nil || len(found) != 1 {
		return "", nil, fmt.Errorf("finding %s in %s: got %d", name, root, len(found))
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil {
		return "", nil, err
	}
	for i, library := range libraries {
		libraries[i] = mount + strings.TrimPrefix(library, root)
	}
	env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
	return mount + strings.TrimPrefix(found[0], root), env, nil
}

// postgresFolder is where the packages of this release are unpacked.
func (b *builder) postgresFolder() (string, error) {
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
	return filepath.Join(b.cache, "packages", name+"-"+runtime.GOARCH), nil
}

// fetchPostgres unpacks the server, and the libraries that it needs and the machine lacks.
func fetchPostgres(ctx context.Context, root string) error {
	packages, err := postgresPackages(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(root), tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := AptGet(ctx, work, append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := run(ctx, work, "dpkg-deb", "-x", archive, "root"); err != nil {
			return err
		}
	}
	return os.Rename(filepath.Join(work, "root"), root)
}

// postgresPackages returns the distribution's default server and the libraries below it that are not installed.
func postgresPackages(ctx context.Context) ([]string, error) {
	out, err := outputOf(ctx, "/", "apt-cache", "depends", "--important", "postgresql")
	if err != nil {
		return nil, err
	}
	_, server, found := strings.Cut(out, "Depends: ")
	if !found {
		if _, err := outputOf(ctx, "/", "apt-get", "-q", "update"); err != nil {
			return nil, err
		}
		if out, err = outputOf(ctx, "/", "apt-cache", "depends", "--important", "postgresql"); err != nil {
			return nil, err
		}
		if _, server, found = strings.Cut(out, "Depends: "); !found {
			return nil, errors.New("finding PostgreSQL: the distribution has no package postgresql")
		}
	}
	server = strings.Fields(server)[0]
	if out, err = outputOf(ctx, "/", "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
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
		if status, _ := outputOf(ctx, "/", "dpkg-query", "-W", "-f", "${db:Status-Status}", name); status != "installed" {
			packages = append(packages, name)
		}
	}
	return packages, nil
}

// outputOf runs a command of the machine and returns what it printed.
func outputOf(ctx context.Context, dir, name string, args ...string) (string, error) {
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
