package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// whole is a number without fraction.
func whole(v any) (int64, error) {
	switch n := v.(type) {
	case int:
		return int64(n), nil
	case int64:
		return n, nil
	case float64:
		if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
			return int64(n), nil
		}
	case string:
		if i, err := strconv.ParseInt(n, 10, 64); err == nil {
			return i, nil
		}
	case json.Number:
		// One with a leading zero is octal to some readers of YAML.
		if i, err := n.Int64(); err == nil && strconv.FormatInt(i, 10) == n.String() {
			return i, nil
		}
	}
	return 0, wrongValue(v)
}

// elements are the strings of a list, which the caller may change.
func elements(v any) ([]string, error) {
	switch l := v.(type) {
	case []string:
		return slices.Clone(l), nil
	case []any:
		all := make([]string, len(l))
		for i, v := range l {
			s, ok := v.(string)
			if !ok {
				return nil, fmt.Errorf("element %d: %w", i+1, wrongType(v, "string"))
			}
			all[i] = s
		}
		return all, nil
	}
	return nil, wrongType(v, "list")
}

func mapOf(v any) (map[string]any, error) {
	switch m := v.(type) {
	case map[string]any:
		return m, nil
	case map[string]string:
		return anyMap(m), nil
	case map[string][]string:
		return anyMap(m), nil
	}
	return nil, wrongType(v, "map")
}

func anyMap[V any](m map[string]V) map[string]any {
	a := make(map[string]any, len(m))
	for k, v := range m {
		a[k] = v
	}
	return a
}

func or(v, fallback any) any {
	if v == nil {
		return fallback
	}
	return v
}

// wrongType says of what type a value is, for which another is wanted.
func wrongType(v any, want string) error {
	is := typeOf(v)
	if want == "string" && (is == "a number" || is == "a bool") {
		return fmt.Errorf("%v is %s: quote it", shorten(fmt.Sprint(v)), is)
	}
	return fmt.Errorf("is %s", is)
}

// wrongValue says what a value is, or of what type where that is longer.
func wrongValue(v any) error {
	switch v := v.(type) {
	case string:
		return errors.New(quote(v))
	case bool, int, int64, float64, json.Number:
		return errors.New(shorten(fmt.Sprint(v)))
	}
	return fmt.Errorf("is %s", typeOf(v))
}

func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a bool"
	case int, int64, float64, json.Number:
		return "a number"
	case []any, []string:
		return "a list"
	}
	return "a map"
}

// longest is how much is told of a value, in bytes.
const longest = 60

func shorten(s string) string {
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}

func quote(s string) string { return strconv.Quote(shorten(s)) }
