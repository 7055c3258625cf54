package vaulttest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// onStarter runs f on one thread that never ends. The kernel sends a child its
// parent-death signal when the thread that has started it ends.
var onStarter = sync.OnceValue(func() func(f func()) {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return func(f func()) {
		done := make(chan struct{})
		work <- func() { f(); close(done) }
		<-done
	}
})

// A process is one that is killed when the test's own ends.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has
}

// launch starts cmd with its output at the end of the file log.
func launch(log string, cmd *exec.Cmd) (*process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	onStarter()(func() { err = cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // exitCode tells
		close(p.ended)
	}()
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// end sends a signal and waits until the process has ended.
func (p *process) end(signal syscall.Signal) {
	if p.running() {
		_ = p.cmd.Process.Signal(signal) // it may just have ended
		<-p.ended
	}
}

// exitCode is that of a process that has ended; -1 if a signal ended it.
func (p *process) exitCode() int { return p.cmd.ProcessState.ExitCode() }
