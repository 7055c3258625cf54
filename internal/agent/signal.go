package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// signals are config.Signals.
var signals = map[string]syscall.Signal{
	"": syscall.SIGHUP, "SIGHUP": syscall.SIGHUP, "SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGTERM": syscall.SIGTERM,
	"SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGWINCH": syscall.SIGWINCH,
}

// partlySent means that some processes were told, which are not told again
// because of the others, and that others may not be.
type partlySent struct {
	process     string
	told, other int
}

func (p partlySent) Error() string {
	return fmt.Sprintf("notifying process %q: %d were told, but %d run as another user, whom the agent may not signal (give all the same runAsUser)", p.process, p.told, p.other)
}

// signalAll sends a signal to every process of a name that /proc shows. It is an
// error if nobody was told, and a partlySent if not all were.
func signalAll(proc fs.FS, kill func(int, syscall.Signal) error, to *config.ProcessSignal) error {
	signal, ok := signals[to.Signal]
	if !ok {
		return fmt.Errorf("notifying process %q: unknown signal %q (%s)", to.Process, to.Signal, strings.Join(config.Signals, ", "))
	}
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return fmt.Errorf("notifying process %q: listing processes: %w", to.Process, err)
	}
	told, foreign := 0, 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		// The first process is the pod's pause container, or ourselves.
		if err != nil || pid <= 1 || pid == os.Getpid() || !isNamed(proc, e.Name(), to.Process) {
			continue
		}
		switch err := kill(pid, signal); {
		case errors.Is(err, syscall.ESRCH): // it has ended meanwhile
		case errors.Is(err, syscall.EPERM):
			foreign++
		case err != nil:
			return fmt.Errorf("notifying process %q: %w", to.Process, err)
		default:
			told++
		}
	}
	switch {
	case told > 0 && foreign > 0:
		return partlySent{to.Process, told, foreign}
	case told > 0:
		return nil
	case foreign > 0:
		return fmt.Errorf("notifying process %q: it runs as another user, whom the agent may not signal (give both the same runAsUser)", to.Process)
	default:
		return fmt.Errorf("notifying process %q: there is no such process (the name of its executable; the pod needs shareProcessNamespace: true)", to.Process)
	}
}

// commLength is how much of a name the kernel keeps in comm (TASK_COMM_LEN
// without its final NUL).
const commLength = 15

// isNamed reports whether a process is of an executable of this name. The exe
// link is not asked: it can be read only by who may trace the process. comm is
// the file that was executed, also a script's; what a process was called with
// is the name where comm was too short for it. Neither is there for a process
// that has ended and waits for its parent.
func isNamed(proc fs.FS, pid, name string) bool {
	command, err := fs.ReadFile(proc, pid+"/cmdline")
	if err != nil || len(command) == 0 {
		return false
	}
	called, _, _ := bytes.Cut(command, []byte{0})
	if string(called) == os.Args[0] {
		return false // the agent's own probe
	}
	if path.Base(string(called)) == name {
		return true
	}
	comm, err := fs.ReadFile(proc, pid+"/comm")
	return err == nil && len(name) <= commLength && strings.TrimSuffix(string(comm), "\n") == name
}
