package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has of the machine.
type usage struct {
	rss, anon      float64 // MiB
	threads, files int     // files are open descriptors
}

// usageOf reads a process's VmRSS, RssAnon and threads (proc_pid_status(5)).
func usageOf(pid int) (usage, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, fmt.Errorf("reading a process's memory: %w", err)
	}
	fields := make(map[string]float64)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			fields[name] = n
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return usage{}, fmt.Errorf("counting a process's open files: %w", err)
	}
	return usage{rss: fields["VmRSS"] / 1024, anon: fields["RssAnon"] / 1024, threads: int(fields["Threads"]), files: len(open)}, nil
}

// cpuTime is what a process's threads have used so far. Those of a Go program
// hardly ever end. The process's own sum counts in steps of 10 ms, which is
// more than an idle agent uses in a minute; this is in nanoseconds
// (Documentation/scheduler/sched-stats.rst of Linux).
func cpuTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("reading CPU time: process %d has no threads", pid)
	}
	var sum time.Duration
	for _, thread := range threads {
		data, err := os.ReadFile(thread)
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		running, _, _ := strings.Cut(string(data), " ")
		ns, err := strconv.ParseInt(running, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
