package render

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"dario.cat/mergo"
)

// in reports whether a list holds a value, or a string another one. Values of
// different types are different, json.Number and string included.
func in(list, v any) bool {
	lv, vv := reflect.ValueOf(list), reflect.ValueOf(v)
	if !vv.IsValid() {
		return false
	}
	switch lv.Kind() {
	case reflect.String:
		return lv.Type() == vv.Type() && strings.Contains(lv.String(), vv.String())
	case reflect.Array, reflect.Slice:
		for i := range lv.Len() {
			element := lv.Index(i)
			if element.Kind() == reflect.Interface {
				element = element.Elem()
			}
			switch {
			case !element.IsValid():
			case element.CanInt() && vv.CanInt() && element.Int() == vv.Int(),
				element.CanFloat() && vv.CanFloat() && element.Float() == vv.Float(),
				element.Kind() == reflect.String && element.Type() == vv.Type() && element.String() == vv.String():
				return true
			}
		}
	}
	return false
}

func containsAll(values []any, list any) bool {
	return !slices.ContainsFunc(values, func(v any) bool { return !in(list, v) })
}

func containsAny(values []any, list any) bool {
	return slices.ContainsFunc(values, func(v any) bool { return in(list, v) })
}

// longestLoop bounds the numbers of a loop, which are made at once.
const longestLoop = 1_000_000

// loop gives the whole numbers from 0, or from the first argument, up to but not
// including the last one.
func loop(bounds ...any) ([]int64, error) {
	if len(bounds) != 1 && len(bounds) != 2 {
		return nil, plain(fmt.Sprintf("loop takes one or two numbers, not %d arguments", len(bounds)))
	}
	var ends []int64
	for _, bound := range bounds {
		v := reflect.ValueOf(bound)
		switch {
		case v.IsValid() && v.Kind() == reflect.String:
			n, err := parseInt(v.String())
			if err != nil {
				return nil, err
			}
			ends = append(ends, n)
		case v.IsValid() && (v.CanInt() || v.CanUint()):
			ends = append(ends, asInt(v))
		default:
			return nil, plain("loop takes whole numbers, not " + typeName(v))
		}
	}
	if len(ends) == 1 {
		ends = []int64{0, ends[0]}
	}
	start, stop := ends[0], ends[1]
	switch n := stop - start; {
	case stop <= start:
		return nil, nil
	case n < 0 || n > longestLoop:
		return nil, plain(fmt.Sprintf("loop gives %d numbers at most", longestLoop))
	}
	numbers := make([]int64, 0, stop-start)
	for n := start; n < stop; n++ {
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// explodeMap makes maps in maps of keys with slashes.
func explodeMap(flat map[string]any) (map[string]any, error) {
	deep := make(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(flat)) {
		parts := strings.Split(key, "/")
		at := deep
		for _, part := range parts[:len(parts)-1] {
			if at[part] == nil {
				at[part] = make(map[string]any)
			}
			next, ok := at[part].(map[string]any)
			if !ok {
				return nil, plain("explodeMap finds a key that is both a value and the beginning of another key")
			}
			at = next
		}
		if last := parts[len(parts)-1]; last != "" {
			at[last] = flat[key]
		}
	}
	return deep, nil
}

// mergeMap adds to the first map what only the second one has; with override
// the second one wins. It changes the first map, which belongs to this
// execution alone.
func mergeMap(into, from map[string]any) (map[string]any, error) {
	return merged(into, from)
}

func mergeMapWithOverride(into, from map[string]any) (map[string]any, error) {
	return merged(into, from, mergo.WithOverride)
}

func merged(into, from map[string]any, how ...func(*mergo.Config)) (map[string]any, error) {
	if err := mergo.Map(&into, from, how...); err != nil {
		return nil, plain("the maps cannot be merged")
	}
	return into, nil
}

func sortedKeys(all ...map[string]any) []string {
	keys := []string{}
	for _, m := range all {
		keys = append(keys, slices.Sorted(maps.Keys(m))...)
	}
	return keys
}

func sortedValues(m map[string]any) []any {
	values := []any{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[key])
	}
	return values
}

// copyOf is a copy of a decoded JSON value that shares nothing that can change.
func copyOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			m[key] = copyOf(value)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, value := range v {
			list[i] = copyOf(value)
		}
		return list
	}
	return v
}

// scratch is where a template keeps values while it is executed.
type scratch struct{ values map[string]any }

// Key reports whether there is a value.
func (s *scratch) Key(k string) bool { _, ok := s.values[k]; return ok }

// Get returns a value or nil.
func (s *scratch) Get(k string) any { return s.values[k] }

// Set stores a value, and gives an empty string to print.
func (s *scratch) Set(k string, v any) string {
	if s.values == nil {
		s.values = make(map[string]any)
	}
	s.values[k] = v
	return ""
}

// SetX stores a value unless there is one.
func (s *scratch) SetX(k string, v any) string {
	if !s.Key(k) {
		s.Set(k, v)
	}
	return ""
}

// MapSet stores a value in a map.
func (s *scratch) MapSet(k, mk string, v any) (string, error) { return s.mapSet(k, mk, v, true) }

// MapSetX stores a value in a map unless there is one.
func (s *scratch) MapSetX(k, mk string, v any) (string, error) { return s.mapSet(k, mk, v, false) }

func (s *scratch) mapSet(k, mk string, v any, override bool) (string, error) {
	if !s.Key(k) {
		s.Set(k, make(map[string]any))
	}
	m, ok := s.values[k].(map[string]any)
	if !ok {
		return "", plain("scratch holds no map there")
	}
	if _, is := m[mk]; override || !is {
		m[mk] = v
	}
	return "", nil
}

// MapValues returns the values of a map in the order of their keys.
func (s *scratch) MapValues(k string) []any {
	m, ok := s.values[k].(map[string]any)
	if !ok {
		return nil
	}
	return sortedValues(m)
}
