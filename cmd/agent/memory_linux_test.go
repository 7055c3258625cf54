package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestHideMemory(t *testing.T) {
	if err := hideMemory(); err != nil {
		t.Fatal(err)
	}
	dumpable, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_DUMPABLE, 0, 0)
	if errno != 0 || dumpable != 0 {
		t.Errorf("dumpable is %d (%v)", dumpable, errno)
	}
}

func TestKeepPagesSmall(t *testing.T) {
	keepPagesSmall()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "THP_enabled:\t0\n") { // Linux 5.0 and newer say so
		t.Errorf("the kernel may use large pages:\n%s", status)
	}
}
