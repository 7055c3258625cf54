package agent

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func TestSignalAll(t *testing.T) {
	proc := fstest.MapFS{"self/comm": {Data: []byte("nginx\n")}, "version": {Data: []byte("Linux")}}
	process := func(pid int, comm, cmdline string) {
		proc[strconv.Itoa(pid)+"/comm"] = &fstest.MapFile{Data: []byte(comm + "\n")}
		proc[strconv.Itoa(pid)+"/cmdline"] = &fstest.MapFile{Data: []byte(cmdline)}
	}
	process(1, "nginx", "nginx\x00")
	process(7, "nginx", "nginx: master process nginx -g daemon off;\x00\x00\x00")
	process(8, "worker", "/usr/sbin/nginx\x00-x\x00")
	process(9, "nginx", "") // has ended
	process(10, "nginxx", "nginxx\x00nginx\x00")
	process(11, "reload-the-conf", "/bin/reload-the-configuration\x00")
	process(12, "reload-the-conf", "/bin/reload-the-conf\x00")
	process(13, "run.sh", "/bin/sh\x00/run.sh\x00")
	process(14, "agent", os.Args[0]+"\x00ready\x00")
	process(os.Getpid(), "nginx", "nginx\x00")

	for _, c := range []struct {
		process, signal string
		want            []int
		sent            syscall.Signal
		err             string
	}{
		{process: "nginx", want: []int{7, 8}, sent: syscall.SIGHUP},
		{process: "reload-the-configuration", signal: "SIGUSR1", want: []int{11}, sent: syscall.SIGUSR1},
		{process: "reload-the-conf", signal: "SIGUSR2", want: []int{11, 12}, sent: syscall.SIGUSR2},
		{process: "run.sh", signal: "SIGTERM", want: []int{13}, sent: syscall.SIGTERM},
		{process: "agent", err: `notifying process "agent": there is no such process`},
		{process: "nope", err: `notifying process "nope": there is no such process (the name of its executable; the pod needs shareProcessNamespace: true)`},
	} {
		var got []int
		err := signalAll(proc, func(pid int, s syscall.Signal) error {
			if s != c.sent {
				t.Errorf("%s: sent %s", c.process, s)
			}
			got = append(got, pid)
			return nil
		}, &config.ProcessSignal{Process: c.process, Signal: c.signal})
		slices.Sort(got)
		if !slices.Equal(got, c.want) || c.err == "" && err != nil || c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)) {
			t.Errorf("%s: signalled %v, %v", c.process, got, err)
		}
	}

	// A process of another user beside one that was told.
	err := signalAll(proc, func(pid int, _ syscall.Signal) error {
		if pid == 7 {
			return syscall.EPERM
		}
		return nil
	}, &config.ProcessSignal{Process: "nginx"})
	if want := (partlySent{"nginx", 1, 1}); err != want {
		t.Errorf("got %v, want %v", err, want)
	}

	for failure, want := range map[error]string{
		syscall.EPERM: "it runs as another user, whom the agent may not signal",
		syscall.ESRCH: "there is no such process",
	} {
		err := signalAll(proc, func(int, syscall.Signal) error { return failure }, &config.ProcessSignal{Process: "nginx"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v", failure, err)
		}
	}
}

// What the configuration allows, the agent can send.
func TestSignals(t *testing.T) {
	names := slices.Sorted(maps.Keys(signals))
	want := append([]string{""}, config.Signals...)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("signals %q, want %q", names, want)
	}
}

// A real process is found by its name and gets the signal.
func TestSignalProcess(t *testing.T) {
	const name = "latchkey-signalled"
	cmd := exec.Command("sleep", "60")
	cmd.Args[0] = "/opt/" + name
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), config.Notification{Signal: &config.ProcessSignal{Process: name, Signal: "SIGUSR1"}}); err != nil {
		t.Error(err)
		_ = cmd.Process.Kill()
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGUSR1 {
		t.Errorf("the process ended with %v", err)
	}
}
