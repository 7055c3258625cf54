package harness

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// ProcessOf returns the ID of a container's first process, as the tests'
// machine numbers it: only in the box do pods run there.
func ProcessOf(p *corev1.Pod, container string) (int, error) {
	id := ""
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if c.Name == container {
			_, id, _ = strings.Cut(c.ContainerID, "://")
		}
	}
	if id == "" {
		return 0, fmt.Errorf("pod %s has no running container %s", p.Name, container)
	}
	pid, err := processIn(id)
	if err != nil {
		return 0, fmt.Errorf("finding the process of %s/%s: %w", p.Name, container, err)
	}
	return pid, nil
}

// Process returns the ID of a container's first process.
func (s *Space) Process(p *corev1.Pod, container string) int {
	s.Helper()
	pid, err := ProcessOf(p, container)
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

// processIn finds the oldest process whose control group is the container's.
func processIn(id string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	// By the time of its start and not by its number, since numbers come round
	// again, and a probe's process may have a lower one.
	oldest, began := 0, uint64(math.MaxUint64)
	for _, file := range files {
		// A process may end while it is looked at.
		data, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(data), id) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			continue
		}
		if start, err := startOf(pid); err == nil && start < began {
			oldest, began = pid, start
		}
	}
	if oldest == 0 {
		return 0, fmt.Errorf("no process of this machine is in container %s", id)
	}
	return oldest, nil
}

// Signal sends a signal to a container's first process.
func (s *Space) Signal(p *corev1.Pod, container string, signal syscall.Signal) {
	s.Helper()
	if err := syscall.Kill(s.Process(p, container), signal); err != nil {
		s.Fatalf("sending %s to %s/%s: %v", signal, p.Name, container, err)
	}
}

// ReadFile reads a file as a container sees it, also one without a shell.
func (s *Space) ReadFile(p *corev1.Pod, container, path string) []byte {
	s.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.Process(p, container)), "root", path))
	if err != nil {
		s.Fatalf("reading %s of %s/%s: %v", path, p.Name, container, err)
	}
	return data
}

// startOf is when a process started, in clock ticks since the machine did (proc(5)).
func startOf(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, a name in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d has %d fields after its name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
