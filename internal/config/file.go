package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Validate reports every problem of one entry, without its place in the list.
func (f *File) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := CheckPath(f.Path); err != nil {
		errs = append(errs, err)
	}
	if f.Mode > 0o777 {
		bad("mode %#o is no permission (\"0000\" to \"0777\")", uint32(f.Mode))
	}
	if f.Refresh != 0 && time.Duration(f.Refresh) < MinRefresh {
		bad("%q has refresh %s (at least %s)", f.Path, f.Refresh, MinRefresh)
	}
	switch {
	case f.Template != "" && f.Secret != "":
		bad("%q has both template and secret (one of them)", f.Path)
	case f.Template == "" && f.Secret == "":
		bad("%q has neither template nor secret (one of them)", f.Path)
	case f.Template != "":
		for _, with := range []struct {
			name string
			set  bool
		}{{"data", f.Data != nil}, {"files", f.Files != nil}, {"format", f.Format != ""}, {"key", f.Key != ""}, {"kv", f.KV != 0}} {
			if with.set {
				bad("%q has %s beside template (only beside secret)", f.Path, with.name)
			}
		}
	default:
		errs = append(errs, f.validateSecret()...)
	}
	if f.AllowMissingKeys && f.Template == "" {
		bad("%q has allowMissingKeys without template (only beside template)", f.Path)
	}
	return errs
}

func (f *File) validateSecret() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s := strings.Trim(f.Secret, "/"); s == "" || path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../") || strings.ContainsAny(s, "?#\\") {
		bad("%q has secret %q (an API path such as \"kv/app\")", f.Path, f.Secret)
	}
	if f.KV < 0 || f.KV > 2 {
		bad("%q has kv %d (1 or 2, or none to ask Vault)", f.Path, f.KV)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Data)) {
		if !isParameter(f.Data[name]) {
			bad("%q has data with a map or nothing at %q (a string, a number, true, false, or a list of them)", f.Path, name)
		}
	}
	if f.Data != nil && f.KV != 0 {
		bad("%q has kv beside data (a write goes to the path as it is)", f.Path)
	}
	if f.Files != nil {
		if f.Format != "" && f.Format != FormatPEM {
			bad("%q has format %q beside files (pem; without it exact bytes)", f.Path, f.Format)
		}
		if f.Key != "" {
			bad("%q has key %q beside files (each of files has its key)", f.Path, f.Key)
		}
		if len(f.Files) == 0 {
			bad("%q has no files (a map from file names to keys)", f.Path)
		}
		for _, name := range slices.Sorted(maps.Keys(f.Files)) {
			if err := CheckPath(name); err != nil {
				bad("%q: files: %w", f.Path, err)
			}
			if f.Files[name] == "" {
				bad("%q: files: %q has no key (the key to write)", f.Path, name)
			} else if f.Format == FormatPEM && !arePEMKeys(f.Files[name]) {
				bad("%q: files: %q has key %q (%s)", f.Path, name, f.Files[name], pemKeys)
			}
		}
		return errs
	}
	switch f.Format {
	case FormatEnv, FormatJSON, FormatYAML, FormatProperties:
		if f.Key != "" {
			bad("%q has key %q with format %s (only formats raw and pem take a key)", f.Path, f.Key, f.Format)
		}
	case FormatRaw:
		if f.Key == "" {
			bad("%q has format raw without key (the key to write)", f.Path)
		}
	case FormatPEM:
		if !arePEMKeys(f.Key) {
			bad("%q has format pem with key %q (%s)", f.Path, f.Key, pemKeys)
		}
	case "":
		bad("%q has no format (%s; or files)", f.Path, Formats)
	default:
		bad("%q has format %q (%s)", f.Path, f.Format, Formats)
	}
	return errs
}

// pemKeys is what FormatPEM takes.
const pemKeys = `one key, or several as in "certificate+ca_chain"`

// arePEMKeys reports whether a key is what FormatPEM takes.
func arePEMKeys(key string) bool { return !slices.Contains(strings.Split(key, "+"), "") }

// isParameter reports whether a value can be a parameter of a write.
func isParameter(v any) bool {
	switch v := v.(type) {
	case string, bool, json.Number, float64, int, int64:
		return true
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool {
			_, list := e.([]any)
			return list || !isParameter(e)
		})
	}
	return false
}

// The bounds of TokenFile.WrapTTL: below them an app could not unwrap in time,
// above them a token that nobody has fetched lies about.
const (
	MinWrapTTL = 10 * time.Second
	MaxWrapTTL = 24 * time.Hour
)

// Validate reports every problem of the token's file.
func (t *TokenFile) Validate() []error {
	var errs []error
	if err := CheckPath(t.Path); err != nil {
		errs = append(errs, err)
	}
	if t.Format != "" && t.Format != TokenRaw && t.Format != TokenJSON {
		errs = append(errs, fmt.Errorf("%q has format %q (%s, %s)", t.Path, t.Format, TokenRaw, TokenJSON))
	}
	if wrap := time.Duration(t.WrapTTL); wrap != 0 && (wrap < MinWrapTTL || wrap > MaxWrapTTL || wrap%time.Second != 0) {
		errs = append(errs, fmt.Errorf("%q has wrapTTL %s (whole seconds from %s to %s)", t.Path, t.WrapTTL, MinWrapTTL, MaxWrapTTL))
	}
	if t.Mode > 0o777 {
		errs = append(errs, fmt.Errorf("mode %#o is no permission (\"0000\" to \"0777\")", uint32(t.Mode)))
	}
	return errs
}
