package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// The shortest intervals that are accepted: below them a pod is a load test of Vault.
const (
	MinRefresh      = 5 * time.Second
	MinStartTimeout = time.Second
)

// MaxRetireGrace keeps replaced tokens from piling up.
const MaxRetireGrace = 24 * time.Hour

// Validate reports every invalid setting at once, each as `field: problem
// (what is allowed)`.
func (a *Agent) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	oneOf := func(field, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			bad(field, "%q (%s)", value, strings.Join(allowed, ", "))
		}
	}
	if a.Version != Version {
		bad("version", "%d (%d)", a.Version, Version)
	}
	oneOf("lifecycle", a.Lifecycle, Native, Init, Sidecar)
	errs = append(errs, a.Vault.Validate()...)
	if len(a.Files) == 0 && !a.Lends() {
		bad("files", "empty (at least one file, a token file, or a proxy)")
	}
	for i := range a.Files {
		for _, err := range a.Files[i].Validate() {
			bad(fmt.Sprintf("files[%d]", i), "%w", err)
		}
		if a.Files[i].Mode == 0 {
			bad(fmt.Sprintf("files[%d]", i), "%q has mode 0000 or none (such as \"0400\")", a.Files[i].Path)
		}
	}
	for _, dir := range a.Show.Dirs {
		if !path.IsAbs(dir) || path.Clean(dir) != dir {
			bad("show.dirs", "%q (an absolute path such as \"/etc/app\")", dir)
		}
	}
	if t := a.TokenFile; t != nil {
		for _, err := range t.Validate() {
			bad("tokenFile", "%w", err)
		}
		if t.Mode == 0 {
			bad("tokenFile", "%q has mode 0000 or none (such as \"0400\")", t.Path)
		}
	}
	for _, err := range Collisions(a.Paths()) {
		bad("files", "%w", err)
	}
	for i := range a.Notify {
		for _, err := range a.Notify[i].Validate() {
			bad(fmt.Sprintf("notify[%d]", i), "%w", err)
		}
	}
	if len(a.Notify) > 0 && a.Lifecycle == Init {
		bad("notify", "lifecycle %s publishes once and tells nobody (%s, %s)", Init, Native, Sidecar)
	}
	if time.Duration(a.Refresh) < MinRefresh {
		bad("refresh", "%s (at least %s)", a.Refresh, MinRefresh)
	}
	if time.Duration(a.StartTimeout) < MinStartTimeout {
		bad("startTimeout", "%s (at least %s)", a.StartTimeout, MinStartTimeout)
	}
	if g := time.Duration(a.RetireGrace); g < 0 || g > MaxRetireGrace {
		bad("retireGrace", "%s (0s to %s)", a.RetireGrace, MaxRetireGrace)
	}
	errs = append(errs, a.validateServe()...)
	oneOf("log.level", a.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", a.Log.Format, "json", "text")
	return errors.Join(errs...)
}

// Paths are all files that are published, in the order of the configuration.
func (a *Agent) Paths() []string {
	var paths []string
	for i := range a.Files {
		paths = append(paths, a.Files[i].Paths()...)
	}
	if a.TokenFile != nil {
		paths = append(paths, a.TokenFile.Path)
		if a.TokenFile.CA {
			paths = append(paths, a.TokenFile.CAPath())
		}
	}
	return paths
}

// CheckPath says what is wrong with the path of a published file. Names that
// begin with ".." belong to the publisher, as in the kubelet's own volumes.
func CheckPath(p string) error {
	const allowed = "a relative path without \"..\", such as \"tls/ca.crt\""
	switch {
	case p == "":
		return fmt.Errorf("path is empty (%s)", allowed)
	case len(p) > 1024 || slices.ContainsFunc(strings.Split(p, "/"), func(s string) bool { return len(s) > 255 }):
		return fmt.Errorf("path %.40q… is too long (1024 bytes, 255 between slashes)", p)
	case path.IsAbs(p), path.Clean(p) != p, p == ".", strings.HasPrefix(p, ".."), strings.Contains(p, "/.."), strings.ContainsAny(p, "\\\x00"):
		return fmt.Errorf("path %q is not allowed (%s)", p, allowed)
	}
	return nil
}

// Collisions reports paths that stand twice in the list, and files that lie
// where another one needs a directory.
func Collisions(paths []string) []error {
	var errs []error
	count := make(map[string]int)
	for _, p := range paths {
		count[p]++
		if count[p] == 2 {
			errs = append(errs, fmt.Errorf("path %q stands more than once (each path once)", p))
		}
	}
	for _, p := range paths {
		for dir := path.Dir(p); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if count[dir] > 0 {
				errs = append(errs, fmt.Errorf("path %q lies below the file %q (a path is a file or a directory)", p, dir))
				break
			}
		}
	}
	return errs
}
