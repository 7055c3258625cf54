package main

import (
	"fmt"
	"syscall"
)

// prSetTHPDisable is of linux/prctl.h; package syscall lacks it.
const prSetTHPDisable = 41

// hideMemory keeps an app of the same user in a shared PID namespace from
// reading the Vault token out of this process.
func hideMemory() error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		return fmt.Errorf("making the process undumpable: %w", errno)
	}
	return nil
}

// keepPagesSmall keeps the kernel from backing the heap with pages of 2 MiB,
// which it does unasked on nodes whose transparent_hugepage is "always": one
// used page of 4 KiB would then cost a pod 512
// (https://go.dev/doc/gc-guide#Linux_transparent_huge_pages). It works without.
func keepPagesSmall() {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetTHPDisable, 1, 0, 0, 0, 0)
}
