package cluster

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
)

func newSupervisor(t *testing.T) *supervisor {
	t.Helper()
	b := Box{t.TempDir()}
	if err := os.Mkdir(b.path("log"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &supervisor{box: b, daemons: map[string]*daemon{}}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { s.reap(ctx); close(stopped) }()
	t.Cleanup(func() { stop(); <-stopped }) // it takes every child of this program
	return s
}

func processes(t *testing.T, s *supervisor) []Process {
	t.Helper()
	var list []Process
	if err := s.Processes(struct{}{}, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSupervisor(t *testing.T) {
	s := newSupervisor(t)
	sleeper := Command{Name: "sleeper", Path: "/bin/sh", Args: []string{"-c", "echo here; exec sleep 1000"}}
	var first, again, second int
	if err := s.Start(sleeper, &first); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(sleeper, &again); err != nil || again != first {
		t.Errorf("starting what runs: got PID %d, %v; want %d", again, err, first)
	}
	kill := Signal{Name: "sleeper", Signal: syscall.SIGKILL, Wait: true}
	if err := s.Signal(kill, nil); err != nil {
		t.Fatal(err)
	}
	list := processes(t, s)
	if len(list) != 1 || list[0].Running || list[0].Exit != "ended by signal 9 (killed)" {
		t.Errorf("after the kill: got %+v", list)
	}
	if err := s.Signal(kill, nil); err == nil {
		t.Error("killing what is dead: want an error")
	}
	if err := s.Restart("sleeper", &second); err != nil {
		t.Fatal(err)
	}
	if list = processes(t, s); !list[0].Running || list[0].PID != second || second == first {
		t.Errorf("after the restart: got %+v, was %d", list, first)
	}
	if err := s.Forget("sleeper", nil); err != nil {
		t.Fatal(err)
	}
	if list = processes(t, s); len(list) != 0 {
		t.Errorf("after it was forgotten: got %+v", list)
	}
	if err := syscall.Kill(second, 0); err == nil {
		t.Error("what was forgotten still runs")
	}
	if err := s.Forget("sleeper", nil); err != nil {
		t.Errorf("forgetting what is not known: %v", err)
	}
	if err := s.Start(sleeper, &first); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(kill, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("sleeper", nil); err == nil || err.Error() != "sleeper had ended by signal 9 (killed)" {
		t.Errorf("forgetting what had ended: %v, want how it ended", err)
	}
	if list = processes(t, s); len(list) != 0 {
		t.Errorf("after what had ended was forgotten: got %+v", list)
	}
}

func TestSupervisorNamesWhatItCannotStart(t *testing.T) {
	s := newSupervisor(t)
	err := s.Start(Command{Name: "ghost", Path: "/no/such/program"}, new(int))
	if err == nil || !strings.HasPrefix(err.Error(), "starting ghost: ") {
		t.Errorf("got %v, want an error that names the daemon", err)
	}
	if err := s.Restart("ghost", new(int)); err == nil {
		t.Error("restarting what never started: want an error")
	}
}

func TestTheEndOfALogIsShown(t *testing.T) {
	b := Box{t.TempDir()}
	if err := writeFile(b.log("etcd"), []byte(strings.Repeat("line\n", 100)+"the cause\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tail := b.logTail("etcd")
	if lines := strings.Split(tail, "\n"); len(lines) != 15 || lines[14] != "    the cause" {
		t.Errorf("got %q", tail)
	}
}
