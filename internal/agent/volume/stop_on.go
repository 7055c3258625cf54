//go:build stoppable

package volume

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// firstStep makes the running agent stop before the change to the volume that
// STOP_AT counts to, from 0, until it is sent SIGUSR1. The agent's hook and
// probe, which are run with arguments, do not stop.
//
// This build is for the end-to-end tests alone, which show that the app is held
// back whatever the agent has done by then.
func firstStep() func(change string) {
	at, err := strconv.Atoi(os.Getenv("STOP_AT"))
	if err != nil || len(os.Args) > 1 {
		return nil
	}
	resume := make(chan os.Signal, 1)
	signal.Notify(resume, syscall.SIGUSR1)
	n := 0
	return func(change string) {
		if n == at {
			fmt.Fprintln(os.Stderr, "stopped before:", change)
			<-resume
		}
		n++
	}
}
