package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// buildArgs give a static program that depends on the sources alone. They have to be the same for every part, and the
// same as the project's own, or nothing of Go's build cache is shared.
var buildArgs = []string{"build", "-trimpath", "-buildvcs=false"}

// goEntry names the entry by everything that goes into the programs.
func (b *builder) goEntry(ctx context.Context, s source) (string, error) {
	version, err := b.goVersion(ctx)
	if err != nil {
		return "", err
	}
	ldflags, err := b.ldflags(s)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintln(hash, version, runtime.GOARCH, buildArgs, ldflags, s.packages, s.programs)
	if s.files != (folder{}) {
		fmt.Fprintln(hash, s.files)
	}
	module := filepath.Join(b.root, s.dir)
	err = filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		isInput := name == "go.mod" || name == "go.sum" || strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if d.IsDir() || !isInput {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(module, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n%s", relative, len(content), content)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("reading what %s is built from: %w", s.name, err)
	}
	return filepath.Join(b.entries(), s.name+"-"+hex.EncodeToString(hash.Sum(nil))[:16]), nil
}

// goBuild builds all programs of a source in one run of the compiler, which then shares what they have in common.
func (b *builder) goBuild(ctx context.Context, s source) error {
	entry, err := b.goEntry(ctx, s)
	if err != nil {
		return err
	}
	ldflags, err := b.ldflags(s)
	if err != nil {
		return err
	}
	return b.install(entry, func(temp string) error {
		out := temp + string(filepath.Separator) // each program under its package's name
		if len(s.programs) == 1 {
			out = filepath.Join(temp, s.programs[0])
		}
		args := append(append([]string{}, buildArgs...), "-ldflags", ldflags, "-o", out)
		if _, err := b.goCommand(ctx, s.dir, append(args, s.packages...)...); err != nil {
			return err
		}
		return b.copyFiles(ctx, s, temp)
	})
}

// copyFiles copies what the programs need of a module's source.
func (b *builder) copyFiles(ctx context.Context, s source, temp string) error {
	if s.files == (folder{}) {
		return nil
	}
	dir, err := b.goCommand(ctx, s.dir, "list", "-m", "-f", "{{.Dir}}", s.files.module)
	if err != nil {
		return fmt.Errorf("looking for the source of %s: %w", s.files.module, err)
	}
	from := filepath.Join(strings.TrimSpace(dir), filepath.FromSlash(s.files.path))
	if err := os.CopyFS(filepath.Join(temp, filepath.Base(from)), os.DirFS(from)); err != nil {
		return fmt.Errorf("copying %s of %s: %w", s.files.path, s.files.module, err)
	}
	return nil
}

// ldflags drop the symbols and stamp the version where a program would otherwise not know it: the kubelet and the API
// server compare theirs.
func (b *builder) ldflags(s source) (string, error) {
	flags := "-s -w"
	if s.version == "" {
		return flags, nil
	}
	file := filepath.Join(b.root, s.dir, "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", s.name, err)
	}
	match := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(s.version) + ` v(\d+)\.(\d+)(\S*)`).FindSubmatch(content)
	if match == nil {
		return "", fmt.Errorf("reading the version of %s: %s does not require %s", s.name, file, s.version)
	}
	major, minor, rest := string(match[1]), string(match[2]), string(match[3])
	const set = " -X k8s.io/component-base/version."
	return flags + set + "gitVersion=v" + major + "." + minor + rest + set + "gitMajor=" + major + set + "gitMinor=" + minor, nil
}

func (b *builder) goVersion(ctx context.Context) (string, error) {
	version, err := b.goCommand(ctx, ".", "env", "GOVERSION")
	if err != nil {
		return "", fmt.Errorf("asking Go for its version: %w", err)
	}
	return strings.TrimSpace(version), nil
}

// goCommand runs go in a folder of the checkout and returns what it printed, which an error has as well.
func (b *builder) goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(b.root, dir)
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if os.Getenv("HOME") == "" {
		// Go's own caches are below HOME, which some services and CI runners do not set.
		if u, err := user.Current(); err == nil {
			cmd.Env = append(cmd.Env, "HOME="+u.HomeDir)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", errors.New("go is not in the PATH: install the Go that go.mod names")
		}
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
