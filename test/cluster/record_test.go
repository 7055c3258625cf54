package cluster

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProcessIDIsNotFooledByAReusedPID(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.alive() {
		t.Error("the test's own process is said to be dead")
	}
	started, rebooted := self, self
	started.Start = "1"
	rebooted.Boot = "another boot"
	for what, id := range map[string]processID{"started at another time": started, "of another boot": rebooted, "never recorded": {}} {
		if id.alive() {
			t.Errorf("a process %s is said to be alive", what)
		}
	}
}

func TestProcessIDOfAnEndedProcess(t *testing.T) {
	cmd := exec.Command("cat") // ends when its input does
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !id.alive() {
		t.Error("a running process is said to be dead")
	}
	input.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if id.alive() {
		t.Error("an ended process is said to be alive")
	}
}

func TestRecordSurvives(t *testing.T) {
	b := Box{filepath.Join(t.TempDir(), "box")}
	if r, err := b.readRecord(); r != nil || err != nil {
		t.Errorf("of no box: got %v, %v; want nothing", r, err)
	}
	want := &record{Owner: "/src/latchkey", Started: time.Unix(1000, 0).UTC(), Ready: true, Controllers: []string{"cpu"}}
	if err := b.writeRecord(want); err != nil {
		t.Fatal(err)
	}
	got, err := b.readRecord()
	if err != nil {
		t.Fatal(err)
	}
	if got.Owner != want.Owner || !got.Started.Equal(want.Started) || !got.Ready || len(got.Controllers) != 1 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := os.WriteFile(b.path("box.json"), []byte(`{"owner": "/sr`), 0o600); err != nil {
		t.Fatal(err)
	}
	if torn, err := b.readRecord(); err != nil || torn == nil || torn.Init.alive() {
		t.Errorf("of a torn record: got %+v, %v; want one that can be cleaned up", torn, err)
	}
}

func TestAnotherCheckoutsBoxIsRefused(t *testing.T) {
	mine, theirs, gone := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "gone")
	for _, test := range []struct {
		owner string
		want  string
	}{
		{mine, ""},
		{gone, ""}, // nobody is left who could take it down
		{theirs, "the box belongs to the checkout " + theirs + ", not to " + mine},
	} {
		err := refuseForeign(&record{Owner: test.owner}, Options{Checkout: mine})
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("owner %s: got %v, want %q", test.owner, err, test.want)
		}
	}
}

// A notice closes itself when something is written to it.
type notice chan struct{}

func (n notice) Write(p []byte) (int, error) { close(n); return len(p), nil }

func TestTheLockIsWaitedFor(t *testing.T) {
	b := Box{filepath.Join(t.TempDir(), "box")}
	unlock, err := b.lock(t.Context(), nil) // and tells nobody that it waits
	if err != nil {
		t.Fatal(err)
	}
	waits, locked := make(notice), make(chan error)
	go func() {
		unlock, err := b.lock(t.Context(), waits)
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	<-waits
	select {
	case <-locked:
		t.Error("two hold the lock")
	default:
	}
	unlock()
	if err := <-locked; err != nil {
		t.Error(err)
	}
}

func TestWaitingForTheLockCanBeInterrupted(t *testing.T) {
	b := Box{filepath.Join(t.TempDir(), "box")}
	unlock, err := b.lock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, interrupt := context.WithCancel(t.Context())
	waits := make(notice)
	go func() { <-waits; interrupt() }()
	if _, err := b.lock(ctx, waits); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want what interrupted it", err)
	}
}

func TestAFolderThatIsNoBoxIsRefused(t *testing.T) {
	t.Setenv(EnvState, t.TempDir())
	if b, err := DefaultBox(); err == nil {
		t.Errorf("got %q, which `down` would remove", b.Dir())
	}
}

func TestDownWithoutABox(t *testing.T) {
	var log bytes.Buffer
	b := Box{filepath.Join(t.TempDir(), "box")}
	if err := b.Down(t.Context(), Options{Checkout: "/src/latchkey", Log: &log}); err != nil {
		t.Fatal(err)
	}
	if got, want := log.String(), "no box is there\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
