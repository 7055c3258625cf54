package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
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

// Validate reports every invalid setting at once, each as `field: problem
// (what is allowed)`.
func (a *Agent) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	if a.Version != Version {
		bad("version", "%d (%d)", a.Version, Version)
	}
	errs = append(errs, a.Vault.validate()...)
	if len(a.Files) == 0 {
		bad("files", "empty (at least one file)")
	}
	for i := range a.Files {
		for _, err := range a.Files[i].Validate() {
			bad(fmt.Sprintf("files[%d]", i), "%w", err)
		}
		if a.Files[i].Mode == 0 {
			bad(fmt.Sprintf("files[%d]", i), "%q has mode 0000 or none (such as \"0400\")", a.Files[i].Path)
		}
	}
	for _, err := range Collisions(a.Files) {
		bad("files", "%w", err)
	}
	if time.Duration(a.Refresh) < MinRefresh {
		bad("refresh", "%s (at least %s)", a.Refresh, MinRefresh)
	}
	if time.Duration(a.StartTimeout) < MinStartTimeout {
		bad("startTimeout", "%s (at least %s)", a.StartTimeout, MinStartTimeout)
	}
	oneOf := func(field, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			bad(field, "%q (%s)", value, strings.Join(allowed, ", "))
		}
	}
	oneOf("log.level", a.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", a.Log.Format, "json", "text")
	return errors.Join(errs...)
}

func (v *Vault) validate() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault."+field+": "+format, args...))
	}
	if err := CheckAddress(v.Address); err != nil {
		bad("address", "%w", err)
	}
	if v.CA != "" && v.CAFile != "" {
		bad("ca", "caFile is set too (one of them)")
	}
	if v.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(v.CA)) {
		bad("ca", "holds no certificate (a PEM bundle)")
	}
	if v.Auth.Method != "kubernetes" {
		bad("auth.method", "%q (kubernetes)", v.Auth.Method)
	}
	if strings.Trim(strings.TrimPrefix(v.Auth.Mount, "auth/"), "/") == "" {
		bad("auth.mount", "%q (the path of the auth method, such as \"kubernetes\")", v.Auth.Mount)
	}
	if v.Auth.Role == "" {
		bad("auth.role", "empty (the name of a role of the auth method)")
	}
	if !path.IsAbs(v.Auth.TokenPath) {
		bad("auth.tokenPath", "%q (an absolute path)", v.Auth.TokenPath)
	}
	return errs
}

// CheckAddress says what is wrong with the address of a Vault server.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil && strings.Contains(address, "@"), u != nil && u.User != nil:
		// Not quoted: what it holds may be a password.
		return errors.New("holds credentials (a URL without user and password)")
	case err != nil:
		return fmt.Errorf("%q is not a URL (such as \"https://vault.vault.svc:8200\")", address)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("%q has no scheme and host (such as \"https://vault.vault.svc:8200\")", address)
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("%q has more than scheme, host and port (the path comes from each secret)", address)
	}
	return nil
}

// Validate reports every problem of one file, without its place in the list.
func (f *File) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := CheckPath(f.Path); err != nil {
		errs = append(errs, err)
	}
	if f.Mode > 0o777 {
		bad("mode %#o is no permission (\"0000\" to \"0777\")", uint32(f.Mode))
	}
	switch {
	case f.Template != "" && f.Secret != "":
		bad("%q has both template and secret (one of them)", f.Path)
		return errs
	case f.Template == "" && f.Secret == "":
		bad("%q has neither template nor secret (one of them)", f.Path)
		return errs
	case f.Template != "":
		for _, with := range []struct {
			name string
			set  bool
		}{{"format", f.Format != ""}, {"key", f.Key != ""}, {"kv", f.KV != 0}} {
			if with.set {
				bad("%q has %s beside template (only beside secret)", f.Path, with.name)
			}
		}
		return errs
	}
	if s := strings.Trim(f.Secret, "/"); s == "" || path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../") || strings.ContainsAny(s, "?#\\") {
		bad("%q has secret %q (an API path such as \"kv/app\")", f.Path, f.Secret)
	}
	switch f.Format {
	case FormatEnv, FormatJSON:
		if f.Key != "" {
			bad("%q has key %q with format %s (only format raw takes a key)", f.Path, f.Key, f.Format)
		}
	case FormatRaw:
		if f.Key == "" {
			bad("%q has format raw without key (the key to write)", f.Path)
		}
	case "":
		bad("%q has no format (env, json, raw)", f.Path)
	default:
		bad("%q has format %q (env, json, raw)", f.Path, f.Format)
	}
	if f.KV < 0 || f.KV > 2 {
		bad("%q has kv %d (1 or 2, or none to ask Vault)", f.Path, f.KV)
	}
	return errs
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
func Collisions(files []File) []error {
	var errs []error
	count := make(map[string]int)
	for _, f := range files {
		count[f.Path]++
		if count[f.Path] == 2 {
			errs = append(errs, fmt.Errorf("path %q stands more than once (each path once)", f.Path))
		}
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if count[dir] > 0 {
				errs = append(errs, fmt.Errorf("path %q lies below the file %q (a path is a file or a directory)", f.Path, dir))
				break
			}
		}
	}
	return errs
}
