package vaulttest

import (
	"testing"
	"time"
)

// Patience bounds every wait that is expected to end well. It is long since the
// machine may be busy; nothing is measured by it.
const Patience = 2 * time.Minute

// Wait polls until done returns nil, and fails the test with its last error
// when Patience is over.
func Wait(t testing.TB, what string, done func() error) {
	t.Helper()
	WaitFor(t, Patience, what, done)
}

// WaitFor is Wait with a limit of its own.
func WaitFor(t testing.TB, limit time.Duration, what string, done func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("waiting for %s: after %s: %v", what, limit, err)
		case <-poll.C:
		}
	}
}

// Hold polls for the whole of d, and fails the test at the first error: what
// must stay as it is.
func Hold(t testing.TB, d time.Duration, what string, still func() error) {
	t.Helper()
	end := time.NewTimer(d)
	defer end.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if err := still(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-end.C:
			return
		case <-poll.C:
		}
	}
}
