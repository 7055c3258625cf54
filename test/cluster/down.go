package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Down ends the box and removes everything it made but the cached binaries. It does the same after a crash.
func (b Box) Down(ctx context.Context, o Options) error {
	unlock, err := b.lock(ctx, o.Log)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := b.readRecord()
	if err != nil {
		return err
	}
	if r != nil && r.Init.alive() && !o.Force {
		if err := refuseForeign(r, o); err != nil {
			return err
		}
	}
	pids, err := cgroupProcesses(b.cgroup())
	if err != nil {
		return err
	}
	if _, err := os.Stat(b.dir); errors.Is(err, os.ErrNotExist) && len(pids) == 0 {
		fmt.Fprintln(o.Log, "no box is there")
		return nil
	}
	if err := b.clean(r); err != nil {
		return err
	}
	fmt.Fprintln(o.Log, "the box is gone")
	return nil
}

// clean stops whatever runs and removes the state folder.
func (b Box) clean(r *record) error {
	if r == nil {
		r = &record{} // nobody knows what ran, but the cgroup does
	}
	if err := b.stop(r); err != nil {
		return err
	}
	// The checkout may be gone, or have a box of another user.
	if text, err := os.ReadFile(wrapperPath(r.Owner)); err == nil && bytes.Contains(text, []byte(b.Kubeconfig())) {
		if err := os.Remove(wrapperPath(r.Owner)); err != nil {
			return fmt.Errorf("removing bin/kubectl: %w", err)
		}
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("removing the state folder: %w", err)
	}
	return nil
}

// stop ends every process of the box. The first process takes all others with it: the kernel kills them with their PID
// namespace, and with them go the mounts, the network and the rules.
func (b Box) stop(r *record) error {
	if r.Init.alive() {
		if err := syscall.Kill(r.Init.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending the box's first process: %w", err)
		}
	}
	// A process in the box's cgroup belongs to it even if the record is older than the process.
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		pids, err := cgroupProcesses(b.cgroup())
		if err != nil {
			return err
		}
		if len(pids) == 0 && !r.Init.alive() {
			break
		}
		if time.Since(start) > 20*time.Second {
			return fmt.Errorf("ending the box's processes: %v still there after 20s", pids)
		}
		if time.Since(start) > 2*time.Second {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return removeCgroup(b.cgroup(), r.Controllers)
}
