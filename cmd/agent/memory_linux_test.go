package main

import (
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
