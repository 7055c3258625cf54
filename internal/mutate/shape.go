package mutate

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// A shape compares a document with the Go type that it is meant for, before it
// is decoded: a decoder stops at the first value of a wrong type, and cannot
// say in which of many connections it stands.
type shape struct {
	unknown Problems // keys that the type lacks, or that lack their value
	wrong   Problems // values of another type
}

// restricting are the keys without which a connection is open to more pods, or
// trusts and shows more, each with what it holds. Null is most often a list whose
// items are commented out, and would be no restriction at all.
var restricting = map[string]string{
	"allowedNamespaces":  "a list of namespaces, [] for none; without the key all of them",
	"ca":                 "a PEM bundle; without the key another source, or the system's roots",
	"caConfigMap":        "name and key; without it another source, or the system's roots",
	"caSecret":           "name and key; without it another source, or the system's roots",
	"clusterTrustBundle": "name or signerName; without it another source, or the system's roots",
	"labelSelector":      "matchLabels and matchExpressions; without it all bundles of the signer",
	"matchLabels":        "a map of labels; without it no label is asked for",
	"matchExpressions":   "a list; without it nothing is asked for",
	"clientCertSecret":   "the name of a Secret; without it the agent shows no certificate",
}

// compare looks at a value, which is at a place below the document, and all
// below it. Null is nothing but in the keys of restricting. Types that the operator's file
// does not have are left to the decoder.
func (s *shape) compare(value any, t reflect.Type, at string) {
	if value == nil {
		return
	}
	switch {
	case t.Kind() == reflect.Pointer:
		s.compare(value, t.Elem(), at)
	case t == reflect.TypeFor[rawJSON]():
		switch value.(type) {
		case string, json.Number:
		default:
			s.wrong.add(at, "is a %s (a string or a number)", kindOf(value))
		}
	case t.Kind() == reflect.String:
		switch value.(type) {
		case string:
		case json.Number, bool:
			s.wrong.add(at, "is a %s (a string: quote it)", kindOf(value))
		default:
			s.wrong.add(at, "is a %s (a string)", kindOf(value))
		}
	case t.Kind() == reflect.Bool:
		if _, ok := value.(bool); !ok {
			s.wrong.add(at, "is a %s (true or false)", kindOf(value))
		}
	case t.Kind() == reflect.Slice:
		items, ok := value.([]any)
		if !ok {
			s.wrong.add(at, "is a %s (a list)", kindOf(value))
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
		s.wrong.add(or(at, "the file"), "is a %s (%s)", kindOf(value), allowed)
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		place := strings.TrimPrefix(at+"."+name, ".")
		field, ok := fields[name]
		switch {
		case t.Kind() == reflect.Map:
			s.compare(entries[name], t.Elem(), place)
		case ok && entries[name] == nil && restricting[name] != "":
			s.unknown.add(place, "has no value (%s)", restricting[name])
		case ok:
			s.compare(entries[name], field, place)
		default:
			s.unknown.add(place, "unknown key (%s)", or(suggest.DidYouMean(name, known), strings.Join(known, ", ")))
		}
	}
}

// kindOf is what a person calls the type of a JSON value.
func kindOf(value any) string {
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
