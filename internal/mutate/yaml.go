package mutate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// key declares one key of a map in an annotation's YAML: reading and
// documentation are driven by tables of them.
type key[T any] struct {
	name, typ, doc string
	// field is where the value goes. That of a *yaml.Node is left to the caller.
	field func(*T) any
}

// readYAML reads an annotation's YAML to its nodes, and form says what it should
// hold. It decodes nothing: the parser would write out aliases, which can make
// gigabytes of a short annotation, and its search for repeated keys takes time
// by the square of their number.
func readYAML(v, form string) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(v), &doc); err != nil {
		msg := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
		return nil, fmt.Errorf("is not YAML: %s (%s)", msg, form)
	}
	if n := alias(&doc); n != nil {
		return nil, fmt.Errorf("line %d: aliases such as %q are not supported (what they stand for, written out)", n.Line, "*"+shorten(n.Value, 40))
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
		return nil, fmt.Errorf("empty (%s)", form)
	}
	return doc.Content[0], nil
}

// readMaps reads a YAML list of at least one map.
func readMaps(v, form string) ([]*yaml.Node, error) {
	list, err := readYAML(v, form)
	if err != nil {
		return nil, err
	}
	notMap := func(n *yaml.Node) bool { return n.Kind != yaml.MappingNode }
	switch {
	case list.Kind == yaml.SequenceNode && len(list.Content) == 0:
		return nil, fmt.Errorf("empty (%s)", form)
	case list.Kind != yaml.SequenceNode || slices.ContainsFunc(list.Content, notMap):
		return nil, fmt.Errorf("is not a list of maps (%s)", form)
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

// readKeys reads a map into a struct, by a table of its keys, and reports all
// that is wrong with it up to a bound.
func readKeys[T any](m *yaml.Node, keys []key[T], into *T) []error {
	var errs []error
	values := make(map[string]*yaml.Node)
	for i := 0; i < len(m.Content) && len(errs) < maxTold; i += 2 {
		name := m.Content[i].Value
		if _, ok := values[name]; ok {
			errs = append(errs, fmt.Errorf("key %q stands more than once (each key once)", name))
		}
		values[name] = m.Content[i+1]
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(errs) >= maxTold {
			break
		}
		i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == name })
		if i < 0 {
			known := make([]string, len(keys))
			for i, k := range keys {
				known[i] = k.name
			}
			errs = append(errs, fmt.Errorf("unknown key %q (%s)", name, or(suggest.DidYouMean(name, known), strings.Join(known, ", "))))
			continue
		}
		if err := readValue(values[name], keys[i].name, keys[i].typ, keys[i].field(into)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// readValue reads the value of one key.
func readValue(n *yaml.Node, name, typ string, field any) error {
	depth := 0 // how far lists and maps may be nested
	switch field := field.(type) {
	case **yaml.Node:
		*field = n
		return nil
	case *map[string]string:
		depth = 1
	case *map[string]any:
		depth = 2
	}
	if _, ok := field.(*config.Mode); ok && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		// As it was written: of a YAML number no more than its value is left.
		return fmt.Errorf("mode %s is not a string (quote it: \"%s\")", shorten(n.Value, 40), shorten(n.Value, 40))
	}
	value, err := plain(n, depth)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if to, ok := field.(*string); ok {
		if s, ok := value.(string); ok {
			*to = s
			return nil
		}
	}
	data, err := json.Marshal(value)
	if err == nil {
		err = decodeExactly(data, field)
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong), string(data) == "null":
		return fmt.Errorf("%s is %s (%s)", name, shorten(string(data), 40), typ)
	case err != nil:
		if _, ok := field.(*config.Duration); ok {
			return fmt.Errorf("%s: %w", name, err)
		}
		return err // of a type of the contract, which says it best
	}
	switch field := field.(type) {
	case *config.Mode:
		if *field == 0 {
			return errors.New("mode \"0000\" lets nobody read the file (such as \"0400\")")
		}
	case *config.Duration:
		if *field == 0 {
			return fmt.Errorf("%s is 0 (at least %s)", name, config.MinRefresh)
		}
	}
	return nil
}

// decodeExactly decodes a value whose numbers stay as they were written: a
// serial number is no float.
func decodeExactly(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(into)
}

// plain is a node as a value that JSON can hold. Lists and maps below the depth
// are wrong there, whatever they hold.
func plain(n *yaml.Node, depth int) (any, error) {
	switch {
	case n.Kind == yaml.SequenceNode:
		list := []any{}
		for i := 0; i < len(n.Content) && depth > 0; i++ {
			v, err := plain(n.Content[i], depth-1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case n.Kind == yaml.MappingNode:
		m := make(map[string]any)
		for i := 0; i < len(n.Content) && depth > 0; i += 2 {
			name := n.Content[i]
			if _, ok := m[name.Value]; ok {
				return nil, fmt.Errorf("key %q stands more than once (each key once)", shorten(name.Value, 40))
			}
			if name.Kind != yaml.ScalarNode || name.Value == "" {
				return nil, fmt.Errorf("line %d: a key is empty or no string (a string)", name.Line)
			}
			v, err := plain(n.Content[i+1], depth-1)
			if err != nil {
				return nil, err
			}
			m[name.Value] = v
		}
		return m, nil
	}
	switch n.ShortTag() {
	case "!!timestamp":
		return n.Value, nil // what only looks like a date is a string
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil // as exact as it was written
		}
	}
	var v any = n.Value
	_ = n.Decode(&v) // what cannot be decoded stays a string
	if _, err := json.Marshal(v); err != nil {
		return n.Value, nil // such as .nan, for which JSON has no number
	}
	return v, nil
}
