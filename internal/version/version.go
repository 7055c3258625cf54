// Package version says which release this is.
package version

// Version is the release, without a leading "v". The Makefile sets it at link
// time; a plain `go build` says "dev".
var Version = "dev"
