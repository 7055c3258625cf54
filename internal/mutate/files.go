package mutate

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
)

// filesForm is what the files annotation holds, in a few words.
const filesForm = "a YAML list of {path, template}, {path, secret, format} or {path, secret, files}"

var fileKeys = []key[config.File]{
	{"path", "string", "Where the file lies below the mount path; with `files`, the directory of them.", func(f *config.File) any { return &f.Path }},
	{"template", "string", "A template in Go's text/template language. Excludes all that is about `secret`.", func(f *config.File) any { return &f.Template }},
	{"secret", "string", "The API path of one secret; `kv/app` and `kv/data/app` are the same where `kv` is a KV version 2 engine.", func(f *config.File) any { return &f.Secret }},
	{"format", "env, json, yaml, properties, raw or pem", "How `secret` is written: sorted `KEY='value'` lines, sorted and indented JSON, sorted YAML, a Java properties file, the exact bytes of one key, or the PEM blocks of one or more keys; see [templates and formats](templates.md#formats).", func(f *config.File) any { return &f.Format }},
	{"key", "string", "The key that format `raw` writes; for `pem` also several, as in `certificate+ca_chain`.", func(f *config.File) any { return &f.Key }},
	{"files", "map of file names to keys", "Several files from one answer, each with the exact bytes of its key, or with format `pem` the PEM blocks of its keys. They change together. Excludes `key` and all other formats.", func(f *config.File) any { return &f.Files }},
	{"data", "map of strings, numbers, booleans and lists of them", "Makes a write of it, with these parameters, which anybody who may read pods can read. What the answer brings is kept, also when the agent is started again; there is another write after `refresh`, or after two thirds of the life that the answer states.", func(f *config.File) any { return &f.Data }},
	{"kv", "1 or 2", "The version of the KV engine at `secret`. Without it the agent asks Vault.", func(f *config.File) any { return &f.KV }},
	{"mode", "quoted octal number", "The permission bits of each file. Without it the tightest that the containers can read.", func(f *config.File) any { return &f.Mode }},
	{"optional", "true or false", "Whether the secret may be missing: its files then are missing too. Without it the app waits for the secret.", func(f *config.File) any { return &f.Optional }},
	{"refresh", "duration, at least 5s", "How long this secret is trusted before it is read again, in place of the annotation `" + Prefix + "refresh`.", func(f *config.File) any { return &f.Refresh }},
}

func setFiles(s *Spec, v string) []error {
	entries, err := readMaps(v, filesForm)
	if err != nil {
		return one(err)
	}
	var errs []error
	var files []config.File // those that are worth comparing with each other
	for i, entry := range entries {
		if len(errs) >= maxTold {
			break // whoever has so many goes by the first ones
		}
		f, bad := parseFile(entry)
		for _, err := range bad {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
		}
		if len(bad) == 0 {
			files = append(files, f)
		}
	}
	if n := pathBytes(files); n > maxAnnotations {
		return append(errs, fmt.Errorf("the paths of all files come to %d bytes (at most %d)", n, maxAnnotations))
	}
	s.Agent.Files = files
	return append(errs, config.Collisions(pathsOf(files))...)
}

// parseFile reads one entry, and reports all that is wrong with it.
func parseFile(entry *yaml.Node) (config.File, []error) {
	var f config.File
	if errs := readKeys(entry, fileKeys, &f); len(errs) > 0 {
		// What could not be read would be reported as missing.
		return f, errs
	}
	if len(f.Path) > maxPath {
		return f, one(config.CheckPath(f.Path)) // every other problem would repeat it
	}
	errs := f.Validate()
	if api, ok := strings.CutPrefix(f.Secret, "/v1/"); ok {
		errs = append(errs, fmt.Errorf("%q has secret %q (%q: without /v1)", f.Path, f.Secret, api))
	}
	if f.Data != nil && len(f.Data) == 0 {
		errs = append(errs, fmt.Errorf("%q has empty data (at least one parameter of the write)", f.Path))
	}
	if len(errs) > 0 {
		return f, errs
	}
	return f, one(render.Check(f, render.Options{}))
}

// pathsOf are the paths of all files.
func pathsOf(files []config.File) []string {
	var paths []string
	for i := range files {
		paths = append(paths, files[i].Paths()...)
	}
	return paths
}

// pathBytes is how much the paths of all files come to, in bytes. A directory
// is written once and counts for each of its files.
func pathBytes(files []config.File) int {
	n := 0
	for _, f := range files {
		n += len(f.Path)
		for name := range f.Files {
			n += len(f.Path) + len(name) + 1
		}
	}
	return n
}
