// Package strictyaml reads the files that operators write: every key that is
// unknown and every value of a wrong type is told at once, each with its place.
// A decoder stops at the first, and cannot say in which item of a list it stands.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	goyaml "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// Problem is one thing that is wrong with a document.
type Problem struct {
	At   string // such as "connections.default.address"
	Text string // what is wrong (what is allowed)
}

// Decode reads one YAML document into a struct. It reports unknown keys, and
// values of a wrong type; where there is one of those, nothing is decoded. The
// error is about what is not YAML at all, such as a repeated key.
//
// Restricting are the keys that must not stand without a value, by name, each
// with what it holds: without them more is allowed, and null is most often a list
// whose items are commented out.
func Decode(data []byte, into any, restricting map[string]string) (unknown, wrong []Problem, err error) {
	if err := oneDocument(data); err != nil {
		return nil, nil, fmt.Errorf("reading YAML: %w", err)
	}
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, nil, fmt.Errorf("reading YAML: %w", err)
	}
	var document any
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber() // numbers are kept as they were written
	if err := dec.Decode(&document); err != nil {
		return nil, nil, fmt.Errorf("reading YAML: %w", err)
	}
	s := shape{restricting: restricting}
	s.compare(document, reflect.TypeOf(into).Elem(), "")
	if len(s.wrong) == 0 {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(asJSON, into); err != nil {
			return nil, nil, fmt.Errorf("reading YAML: %w", err)
		}
	}
	return s.unknown, s.wrong, nil
}

// oneDocument reports what stands behind the end of the first document: no
// reader would look at it.
func oneDocument(data []byte) error {
	var document goyaml.Node
	dec := goyaml.NewDecoder(bytes.NewReader(data))
	for i := range 2 {
		err := dec.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case i == 1:
			return errors.New("there is a second document (one, without a line of --- behind it)")
		case err != nil:
			return err
		}
	}
	return nil
}

// shape compares a document with the Go type that it is meant for.
type shape struct {
	restricting map[string]string
	unknown     []Problem // keys that the type lacks, or that lack their value
	wrong       []Problem // values of another type
}

func (s *shape) isUnknown(at, format string, args ...any) {
	s.unknown = append(s.unknown, Problem{at, fmt.Sprintf(format, args...)})
}

func (s *shape) isWrong(at, format string, args ...any) {
	s.wrong = append(s.wrong, Problem{at, fmt.Sprintf(format, args...)})
}

// compare looks at a value, which is at a place below the document, and all
// below it. Null is nothing but in the keys of restricting. Types that none of
// the files has are left to the decoder.
func (s *shape) compare(value any, t reflect.Type, at string) {
	if value == nil {
		return
	}
	switch {
	case t.Kind() == reflect.Pointer:
		s.compare(value, t.Elem(), at)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		raw, err := json.Marshal(value)
		if err == nil {
			err = reflect.New(t).Interface().(json.Unmarshaler).UnmarshalJSON(raw)
		}
		if err != nil {
			s.isWrong(at, "%s", err)
		}
	case t.Kind() == reflect.String:
		switch value.(type) {
		case string:
		case json.Number, bool:
			s.isWrong(at, "is a %s (a string: quote it)", Kind(value))
		default:
			s.isWrong(at, "is a %s (a string)", Kind(value))
		}
	case t.Kind() == reflect.Bool:
		if _, ok := value.(bool); !ok {
			s.isWrong(at, "is a %s (true or false)", Kind(value))
		}
	case t.Kind() == reflect.Slice:
		items, ok := value.([]any)
		if !ok {
			s.isWrong(at, "is a %s (a list)", Kind(value))
		}
		for i, item := range items {
			s.compare(item, t.Elem(), fmt.Sprintf("%s[%d]", at, i))
		}
	case t.Kind() == reflect.Map || t.Kind() == reflect.Struct:
		s.compareMap(value, t, at)
	}
}

// compareMap looks at a value that is meant for a struct or a map.
func (s *shape) compareMap(value any, t reflect.Type, at string) {
	entries, ok := value.(map[string]any)
	fields := make(map[string]reflect.Type)
	var known []string // in the order of the type
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			fields[name] = t.Field(i).Type
			known = append(known, name)
		}
	}
	if !ok {
		allowed := "a map"
		if known != nil && at != "" {
			allowed = "a map: " + strings.Join(known, ", ")
		}
		if at == "" {
			at = "the file"
		}
		s.isWrong(at, "is a %s (%s)", Kind(value), allowed)
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		place := strings.TrimPrefix(at+"."+name, ".")
		field, ok := fields[name]
		switch {
		case t.Kind() == reflect.Map:
			s.compare(entries[name], t.Elem(), place)
		case ok && entries[name] == nil && s.restricting[name] != "":
			s.isUnknown(place, "has no value (%s)", s.restricting[name])
		case ok:
			s.compare(entries[name], field, place)
		default:
			hint := suggest.DidYouMean(name, known)
			if hint == "" {
				hint = strings.Join(known, ", ")
			}
			s.isUnknown(place, "unknown key (%s)", hint)
		}
	}
}

// Kind is what a person calls the type of a JSON value.
func Kind(value any) string {
	switch value.(type) {
	case map[string]any:
		return "map"
	case []any:
		return "list"
	case string:
		return "string"
	case bool:
		return "bool"
	}
	return "number"
}
