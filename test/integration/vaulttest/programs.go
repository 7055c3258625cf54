package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

// Checkout is the root of the working tree that holds the working directory.
var Checkout = sync.OnceValues(func() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test", "cluster", "parts")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in a checkout of Latchkey", start)
		}
	}
})

// Prepare builds and fetches what the tests run and the cache lacks, and says so
// in log.
func Prepare(ctx context.Context, log io.Writer) error {
	if _, err := ensure(ctx, log); err != nil {
		return err
	}
	if _, err := build.Postgres(ctx, "", log); err != nil {
		return err
	}
	_, err := AgentProgram()
	return err
}

func ensure(ctx context.Context, log io.Writer) (build.Parts, error) {
	root, err := Checkout()
	if err != nil {
		return nil, err
	}
	parts, err := build.Ensure(ctx, build.Options{Root: root, Log: log, Want: []string{"vault"}})
	if err != nil {
		return nil, fmt.Errorf("building Vault: %w", err)
	}
	return parts, nil
}

// vaultProgram is the path of the Vault of the tests.
var vaultProgram = sync.OnceValues(func() (string, error) {
	parts, err := ensure(context.Background(), os.Stderr)
	return parts["vault"], err
})

// AgentProgram is the path of the agent, built from the checkout as it is.
var AgentProgram = sync.OnceValues(func() (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "integration")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Another package's tests may be running the one that is there.
	program := filepath.Join(dir, "agent")
	fresh := fmt.Sprintf("%s.%d", program, os.Getpid())
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-gcflags=all=-l", "-ldflags", "-s -w", "-o", fresh, "./cmd/agent")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building the agent: %w: %s", err, bytes.TrimSpace(out)), os.RemoveAll(fresh))
	}
	return program, os.Rename(fresh, program)
})
