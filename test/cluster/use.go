package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Status writes whose box it is and how it is, and returns an error if it is not good.
func (b Box) Status(ctx context.Context, w io.Writer) error {
	r, err := b.running()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "started  %s by %s\nstate    %s\n", r.Started.Format(time.DateTime), r.Owner, b.dir)
	var list []Process
	if err := b.supervisor("Processes", struct{}{}, &list); err != nil {
		return err
	}
	for _, p := range list {
		state := fmt.Sprintf("runs (PID %d in the box)", p.PID)
		if !p.Running {
			state = p.Exit
		}
		fmt.Fprintf(w, "  %-24s %s\n", p.Name, state)
	}
	if err := b.healthy(ctx, r, ""); err != nil {
		return fmt.Errorf("the box is not good: %w", err)
	}
	fmt.Fprintln(w, "healthy")
	return nil
}

// running returns the record of the box if its first process lives.
func (b Box) running() (*record, error) {
	r, err := b.readRecord()
	if err == nil && (r == nil || !r.Init.alive()) {
		err = errNotRunning
	}
	return r, err
}

// Env returns the variables that a suite reads, as NAME=value.
func (b Box) Env() []string {
	return []string{EnvKubeconfig + "=" + b.Kubeconfig(), EnvState + "=" + b.dir}
}

// Exec replaces the program by a command in the box's network, without KUBECONFIG and with the variables of Env.
// Nothing but the network differs for it: it sees the machine's files and processes.
func (b Box) Exec(argv []string) error {
	r, err := b.running()
	if err != nil {
		return err
	}
	if !r.Ready {
		return errors.New("the box is not ready (start it with `make cluster-up`)")
	}
	runtime.LockOSThread() // the thread that enters is the one that becomes the command
	if err := enterNetwork(r.Init.PID); err != nil {
		return err
	}
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "KUBECONFIG=") {
			env = append(env, variable)
		}
	}
	return Exec(argv, append(env, b.Env()...))
}

// Exec replaces the program by a command. Of a variable that is set twice the last value counts.
func Exec(argv, env []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("running %s: %w", path, syscall.Exec(path, argv, (&exec.Cmd{Env: env}).Environ()))
}

// Kubectl runs kubectl on the terminal.
func (b Box) Kubectl(ctx context.Context, args []string) error {
	cmd, err := b.kubectl(ctx, args...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// Kill ends a daemon of the box with SIGKILL and returns when it is dead.
func (b Box) Kill(name string) error {
	return b.supervisor("Signal", Signal{Name: name, Signal: syscall.SIGKILL, Wait: true}, new(struct{}))
}

// Start starts a daemon that has ended, with the arguments that it had.
func (b Box) Start(name string) error {
	return b.supervisor("Restart", name, new(int))
}

// wrapper is bin/kubectl in the checkout. It checks that the network is still the one it was written for.
const wrapper = `#!/bin/sh
# kubectl for the box that runs here; written by "cluster up".
[ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
if [ "$(readlink /proc/%[1]d/ns/net)" != "%[2]s" ]; then
	echo "the box is not running (start it with: make cluster-up)" >&2
	exit 1
fi
export KUBECACHEDIR='%[5]s'
exec nsenter -t %[1]d -n -- '%[3]s' --kubeconfig '%[4]s' "$@"
`

func wrapperPath(checkout string) string { return filepath.Join(checkout, "bin", "kubectl") }

func (s *startup) writeWrapper() error {
	pid := s.record.Init.PID
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	return writeFile(wrapperPath(s.Checkout), fmt.Appendf(nil, wrapper, pid, network, s.bin("kubectl"), s.Kubeconfig(), s.kubeCache()), 0o755)
}
