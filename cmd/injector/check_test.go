package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckExitCodes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("conections: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args        []string
		code        int
		out, stderr string // what they hold
	}{
		{nil, 1, "FAIL  API server: there is no kubeconfig (set KUBECONFIG, or give --kubeconfig)\n", "injector: 1 failed, 0 ok, 8 not checked\n"},
		{[]string{"--config", broken}, 1, "FAIL  configuration: " + broken + `: conections: unknown key (did you mean "connections"?)`, "injector: 3 failed"},
		{[]string{"--kubeconfig", broken + ".none"}, 1, "FAIL  API server: stat ", "injector: 1 failed"},
		{[]string{"--timeout", "0s"}, 2, "", "injector check: --timeout is 0s (a duration above 0)"},
		{[]string{"more"}, 2, "", `injector check: unexpected argument "more"`},
		{[]string{"--nope"}, 2, "", "injector check -h lists the flags"},
		{[]string{"-h"}, 0, "", "Usage: injector check [FLAGS]"},
	} {
		code, out, stderr := call(t, "", append([]string{"check"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit code %d, want %d with %q and %q:\n%s%s", c.args, code, c.code, c.out, c.stderr, out, stderr)
		}
		if n := strings.Count(stderr, "\n"); n > 24 {
			t.Errorf("%q: explains itself in %d lines", c.args, n)
		}
	}
}

// The usage is of what the user has called.
func TestNameOfThePlugin(t *testing.T) {
	called := os.Args[0]
	t.Cleanup(func() { os.Args[0] = called })
	os.Args[0] = "/usr/local/bin/kubectl-latchkey"
	for _, args := range [][]string{{"help"}, {"check", "-h"}, {"render", "-h"}, {"nope"}, {"render"}, {"render", "-f", "none"}} {
		if _, out, stderr := call(t, "", args...); !strings.Contains(out+stderr, "kubectl latchkey") || strings.Contains(out+stderr, "injector COMMAND") {
			t.Errorf("%q:\n%s%s", args, out, stderr)
		}
	}
}
