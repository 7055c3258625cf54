package vaulttest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Tmpfs mounts a file system in memory, as a pod's volume is one, and returns
// its directory. It is in a mount namespace of its own, which the test's
// processes enter by that path, and goes with the test. Its size has the form
// of mount's option, such as 64k, and is rounded up to pages.
func Tmpfs(t testing.TB, size string) string {
	t.Helper()
	const ready = "mounted\n"
	args := []string{"--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs -o mode=755,size="$1" tmpfs /mnt && echo mounted && exec sleep infinity`, "sh", size}
	if os.Getuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
	}
	cmd := exec.Command("unshare", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	onStarter()(func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("mounting a file system in memory: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
	})
	line := make([]byte, len(ready))
	if _, err := io.ReadFull(said, line); err != nil || string(line) != ready {
		t.Fatalf("mounting a file system in memory: it said %q (%v)", line, err)
	}
	return fmt.Sprintf("/proc/%d/root/mnt", cmd.Process.Pid)
}
