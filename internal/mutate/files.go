package mutate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// filesForm is what the files annotation holds, in a few words.
const filesForm = "a YAML list of {path, template} or {path, secret, format}"

// fileKey declares one key of an entry of the files annotation.
type fileKey struct {
	name, typ, doc string
	field          func(*config.File) any
}

var fileKeys = []fileKey{
	{"path", "string", "Where the file lies below the mount path.", func(f *config.File) any { return &f.Path }},
	{"template", "string", "A template in Go's text/template language. Excludes `secret`, `format`, `key` and `kv`.", func(f *config.File) any { return &f.Template }},
	{"secret", "string", "The API path of one secret; `kv/app` and `kv/data/app` are the same where `kv` is a KV version 2 engine.", func(f *config.File) any { return &f.Secret }},
	{"format", "env, json or raw", "How `secret` is written: sorted `KEY='value'` lines, sorted and indented JSON, or the exact bytes of one key.", func(f *config.File) any { return &f.Format }},
	{"key", "string", "The key that format `raw` writes.", func(f *config.File) any { return &f.Key }},
	{"kv", "1 or 2", "The version of the KV engine at `secret`. Without it the agent asks Vault.", func(f *config.File) any { return &f.KV }},
	{"mode", "quoted octal number", "The file's permission bits. Without it the tightest that the app containers can read.", func(f *config.File) any { return &f.Mode }},
}

func setFiles(s *Spec, v string) []error {
	data, err := yaml.YAMLToJSONStrict([]byte(v))
	if err != nil {
		return one(fmt.Errorf("%s (%s)", yamlProblem(err), filesForm))
	}
	var entries []map[string]rawJSON
	if err := json.UnmarshalCaseSensitivePreserveInts(data, &entries); err != nil {
		return one(fmt.Errorf("is not a list of maps (%s)", filesForm))
	}
	if len(entries) == 0 {
		return one(fmt.Errorf("empty (%s)", filesForm))
	}
	var errs []error
	var files []config.File // those that are worth comparing with each other
	for i, entry := range entries {
		f, bad := parseFile(entry)
		for _, err := range bad {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
		}
		if len(bad) == 0 {
			files = append(files, f)
		}
	}
	s.Agent.Files = files
	return append(errs, config.Collisions(files)...)
}

// yamlProblem is what a YAML parser complains of, on one line.
func yamlProblem(err error) string {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	msg = strings.ReplaceAll(msg, "unmarshal errors:\n  ", "")
	return "is not YAML: " + strings.Join(strings.Fields(msg), " ")
}

// parseFile reads one entry, and reports all that is wrong with it.
func parseFile(entry map[string]rawJSON) (config.File, []error) {
	var f config.File
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(entry)) {
		i := slices.IndexFunc(fileKeys, func(k fileKey) bool { return k.name == name })
		if i < 0 {
			known := make([]string, len(fileKeys))
			for i, k := range fileKeys {
				known[i] = k.name
			}
			errs = append(errs, fmt.Errorf("unknown key %q (%s)", name, or(didYouMean(name, known), strings.Join(known, ", "))))
			continue
		}
		k, value := fileKeys[i], entry[name]
		err := json.UnmarshalCaseSensitivePreserveInts(value, k.field(&f))
		switch {
		case err != nil && name == "mode":
			errs = append(errs, err) // config.Mode says it best
		case err != nil || string(value) == "null":
			errs = append(errs, fmt.Errorf("%s is %s (%s)", name, shorten(string(value)), k.typ))
		case name == "mode" && f.Mode == 0:
			errs = append(errs, errors.New("mode \"0000\" lets nobody read the file (such as \"0400\")"))
		}
	}
	if len(errs) > 0 {
		// What could not be read would be reported as missing.
		return f, errs
	}
	if errs = f.Validate(); len(errs) > 0 {
		return f, errs
	}
	return f, one(render.Check(f))
}

func shorten(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}

// rawJSON is a JSON value as it was written.
type rawJSON []byte

// UnmarshalJSON keeps a copy of the value.
func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = slices.Clone(b)
	return nil
}
