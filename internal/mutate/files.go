package mutate

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"

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
	entries, err := readEntries(v)
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
	s.Agent.Files = files
	return append(errs, config.Collisions(pathsOf(files))...)
}

// readEntries reads the YAML list of maps. It goes no deeper: the parser would
// write out aliases, which can make gigabytes of a short annotation, and its
// search for repeated keys takes time by the square of their number.
func readEntries(v string) ([]*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(v), &doc); err != nil {
		msg := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
		return nil, fmt.Errorf("is not YAML: %s (%s)", msg, filesForm)
	}
	if n := alias(&doc); n != nil {
		return nil, fmt.Errorf("line %d: aliases such as %q are not supported (what they stand for, written out)", n.Line, "*"+shorten(n.Value, 40))
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" || doc.Content[0].Kind == yaml.SequenceNode && len(doc.Content[0].Content) == 0 {
		return nil, fmt.Errorf("empty (%s)", filesForm)
	}
	list := doc.Content[0]
	if list.Kind != yaml.SequenceNode || slices.ContainsFunc(list.Content, func(n *yaml.Node) bool { return n.Kind != yaml.MappingNode }) {
		return nil, fmt.Errorf("is not a list of maps (%s)", filesForm)
	}
	return list.Content, nil
}

// alias is the first alias in a document, or nil.
func alias(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n
	}
	for _, c := range n.Content {
		if found := alias(c); found != nil {
			return found
		}
	}
	return nil
}

// parseFile reads one entry, and reports all that is wrong with it.
func parseFile(entry *yaml.Node) (config.File, []error) {
	var f config.File
	var errs []error
	values := make(map[string]*yaml.Node)
	for i := 0; i < len(entry.Content) && len(errs) < maxTold; i += 2 {
		name := entry.Content[i].Value
		if _, ok := values[name]; ok {
			errs = append(errs, fmt.Errorf("key %q stands more than once (each key once)", name))
		}
		values[name] = entry.Content[i+1]
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(errs) >= maxTold {
			break
		}
		i := slices.IndexFunc(fileKeys, func(k fileKey) bool { return k.name == name })
		if i < 0 {
			known := make([]string, len(fileKeys))
			for i, k := range fileKeys {
				known[i] = k.name
			}
			errs = append(errs, fmt.Errorf("unknown key %q (%s)", name, or(didYouMean(name, known), strings.Join(known, ", "))))
			continue
		}
		k, value := fileKeys[i], asJSON(values[name])
		err := kjson.UnmarshalCaseSensitivePreserveInts(value, k.field(&f))
		switch {
		case err != nil && name == "mode":
			errs = append(errs, err) // config.Mode says it best
		case err != nil || string(value) == "null":
			errs = append(errs, fmt.Errorf("%s is %s (%s)", name, shorten(string(value), 40), k.typ))
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

// asJSON is a value of an entry as JSON. A list or a map is wrong for every key,
// whatever it holds.
func asJSON(n *yaml.Node) []byte {
	switch n.Kind {
	case yaml.SequenceNode:
		return []byte("[]")
	case yaml.MappingNode:
		return []byte("{}")
	}
	var v any = n.Value // what only looks like a date is a string
	if n.ShortTag() != "!!timestamp" {
		_ = n.Decode(&v) // what cannot be decoded stays a string
	}
	if data, err := json.Marshal(v); err == nil {
		return data
	}
	data, _ := json.Marshal(n.Value) // such as .nan, for which JSON has no number
	return data
}

// rawJSON is a JSON value as it was written.
type rawJSON []byte

// UnmarshalJSON keeps a copy of the value.
func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = slices.Clone(b)
	return nil
}

// pathsOf are the paths of all files.
func pathsOf(files []config.File) []string {
	var paths []string
	for i := range files {
		paths = append(paths, files[i].Paths()...)
	}
	return paths
}
