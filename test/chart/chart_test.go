package chart

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
)

var update = flag.Bool("update", false, "rewrite the wanted renderings below testdata")

const (
	checkout = "../.."
	folder   = checkout + "/deploy/webhook"
)

// helm is the program of the version that the suites use, built from the module that pins it.
var helm string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "latchkey-helm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	helm = filepath.Join(dir, "helm")
	build := exec.Command("go", "build", "-modfile=../cluster/parts/helm/go.mod", "-ldflags=-s -w", "-o", helm, "helm.sh/helm/v4/cmd/helm")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building helm: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// render renders a case of the chart with these values.
func render(t *testing.T, c Case, values string) (string, error) {
	t.Helper()
	return c.Render(t.Context(), helm, folder, values)
}

func cases(t *testing.T) []Case {
	t.Helper()
	all, err := Cases(checkout)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 30 {
		t.Fatalf("%d cases in testdata, there were at least 30", len(all))
	}
	return all
}

// TestRendersAsWanted comes first: with -update, the others read what it wrote.
func TestRendersAsWanted(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			got, err := render(t, c, filepath.Join(c.Dir, "values.yaml"))
			name, stale := "want.yaml", "want.err"
			if err != nil {
				// Helm lists what the schema forbids in no fixed order.
				lines := strings.Split(err.Error(), "\n")
				slices.Sort(lines[1:])
				name, stale, got = stale, name, strings.Join(slices.Compact(lines), "\n")+"\n"
			}
			want := filepath.Join(c.Dir, name)
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				_ = os.Remove(filepath.Join(c.Dir, stale))
			}
			data, err := os.ReadFile(want)
			if err != nil {
				t.Fatalf("%v\nrendered:\n%s", err, got)
			}
			if string(data) != got {
				t.Errorf("differs from %s (-update rewrites it): %s", want, firstDifference(string(data), got))
			}
			files, err := os.ReadDir(c.Dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if !slices.Contains([]string{"values.yaml", "args", name}, f.Name()) {
					t.Errorf("stale file %s", f.Name())
				}
			}
		})
	}
}

// TestEveryValueIsUsed takes each value that a case sets out again: what is
// rendered has to change. And each value of the chart is in some case.
func TestEveryValueIsUsed(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	used := map[string]bool{}
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases(t) {
			if c.Refused() {
				continue
			}
			values := readYAML(t, filepath.Join(c.Dir, "values.yaml"))
			full, err := os.ReadFile(filepath.Join(c.Dir, "want.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range leaves(values, defaults(t)) {
				t.Run(c.Name+"/"+path, func(t *testing.T) {
					t.Parallel()
					file := filepath.Join(t.TempDir(), "values.yaml")
					data, err := json.Marshal(without(values, strings.Split(path, ".")))
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(file, data, 0o600); err != nil {
						t.Fatal(err)
					}
					got, err := render(t, c, file)
					if err == nil && got == string(full) {
						t.Error("changes nothing: the chart does not use it, or it is the default")
					}
					mu.Lock()
					used[path] = true
					mu.Unlock()
				})
			}
		}
	})
	for _, path := range leaves(defaults(t), defaults(t)) {
		if !used[path] && !strings.HasPrefix(path, "config.connections.default.auth") {
			t.Errorf("no case sets %s", path)
		}
	}
}

// TestSchemaKnowsEveryValue compares values.yaml with its schema, both ways.
func TestSchemaKnowsEveryValue(t *testing.T) {
	t.Parallel()
	schema := readYAML(t, folder+"/values.schema.json")
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		properties, _ := schema["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(values)) {
			at := strings.TrimPrefix(path+"."+name, ".")
			property, ok := properties[name].(map[string]any)
			if !ok {
				t.Errorf("%s is in values.yaml, and not in the schema", at)
				continue
			}
			if text, _ := property["description"].(string); !strings.HasSuffix(text, ".") {
				t.Errorf("%s has no description in the schema", at)
			}
			value, isMap := values[name].(map[string]any)
			if property["properties"] == nil || !isMap {
				continue
			}
			if at != "config" && property["additionalProperties"] != false {
				t.Errorf("%s lets any key pass (additionalProperties: false)", at)
			}
			compare(at, property, value)
		}
		for name := range properties {
			at := strings.TrimPrefix(path+"."+name, ".")
			// The injector's own file has more keys than the chart has defaults.
			if _, ok := values[name]; !ok && at != "global" && !strings.HasPrefix(at, "config.") {
				t.Errorf("%s is in the schema, and not in values.yaml", at)
			}
		}
	}
	compare("", schema, defaults(t))
	if schema["additionalProperties"] != false {
		t.Error("the schema lets any key pass (additionalProperties: false)")
	}
}

// TestLint runs helm's own checks of the chart.
func TestLint(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), helm, "lint", "--strict", folder).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func defaults(t *testing.T) map[string]any {
	t.Helper()
	return readYAML(t, folder+"/values.yaml")
}

func readYAML(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := yaml.Unmarshal(data, &out); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return out
}

// leaves are the dotted names of all values. A map that is empty by default is
// one value, whatever is put into it.
func leaves(values, defaults map[string]any) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value, isMap := values[name].(map[string]any)
		known, _ := defaults[name].(map[string]any)
		if !isMap || len(known) == 0 {
			out = append(out, name)
			continue
		}
		for _, below := range leaves(value, known) {
			out = append(out, name+"."+below)
		}
	}
	return out
}

// without is a copy of the values that lacks one.
func without(values map[string]any, path []string) map[string]any {
	out := maps.Clone(values)
	if below, ok := out[path[0]].(map[string]any); ok && len(path) > 1 {
		out[path[0]] = without(below, path[1:])
		return out
	}
	delete(out, path[0])
	return out
}

// firstDifference shows the first line that is not the same in both.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if !reflect.DeepEqual(w[i], g[i]) {
			return fmt.Sprintf("line %d:\n- %s\n+ %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
