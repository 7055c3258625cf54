//go:build !linux

package main

// hideMemory does nothing where agents do not run but are developed.
func hideMemory() error { return nil }

// keepPagesSmall does nothing either.
func keepPagesSmall() {}
