package mutate

import (
	"maps"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every key of the operator's file has its row in the documentation, and none
// is documented that there is not.
func TestConfigurationPageHasEveryKey(t *testing.T) {
	page := configurationPage(t)
	documented := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(page, -1) {
		documented[m[1]] = true
	}
	known := make(map[string]bool)
	leaves(reflect.TypeFor[operatorFile](), "", known)
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if !documented[key] {
			t.Errorf("docs/configuration.md has no row for %s", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(documented)) {
		if !known[key] {
			t.Errorf("docs/configuration.md has a row for %s, which is no key", key)
		}
	}
}

// leaves collects the keys below a type of this package that hold values.
func leaves(t reflect.Type, at string, into map[string]bool) {
	switch {
	case t.Kind() == reflect.Pointer:
		leaves(t.Elem(), at, into)
	case t.Kind() == reflect.Map && ofThisPackage(t.Elem()):
		leaves(t.Elem(), at+".NAME", into)
	case t.Kind() == reflect.Slice && ofThisPackage(t.Elem()):
		leaves(t.Elem(), at+"[]", into)
	case t.Kind() == reflect.Struct && ofThisPackage(t):
		for i := range t.NumField() {
			leaves(t.Field(i).Type, strings.TrimPrefix(at+"."+t.Field(i).Tag.Get("json"), "."), into)
		}
	default:
		into[at] = true
	}
}

func ofThisPackage(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && path.Base(t.PkgPath()) == "mutate"
}

// What the documentation shows can be used as it stands.
func TestConfigurationPageShowsGoodFiles(t *testing.T) {
	files := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(configurationPage(t), -1)
	if len(files) < 3 {
		t.Fatalf("%d files are shown, there were 3", len(files))
	}
	for _, m := range files {
		if _, err := ParseConfig([]byte(m[1])); err != nil {
			t.Errorf("%v\n%s", err, m[1])
		}
	}
}

func configurationPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}
