package manifest

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sigsyaml "sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

var update = flag.Bool("update", false, "rewrite the wanted results below testdata")

// Each folder of testdata has in.yaml and want.txt: what became of each
// object, the documents, and what Diff says of them.
func TestGolden(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		dir := filepath.Join("testdata", d.Name())
		t.Run(d.Name(), func(t *testing.T) {
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if f.Name() != "in.yaml" && f.Name() != "want.txt" {
					t.Errorf("stale file %s (in.yaml, want.txt)", f.Name())
				}
			}
			in, err := os.ReadFile(filepath.Join(dir, "in.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			docs, err := Inject(in, "", mutate.DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			got := describe(docs)
			if *update {
				if err := os.WriteFile(filepath.Join(dir, "want.txt"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Join(dir, "want.txt"))
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from want.txt (-update rewrites it):\n%s", Diff(want, []byte(got)))
			}
			for _, doc := range docs {
				check(t, doc)
			}
		})
	}
}

func describe(docs []Document) string {
	var b strings.Builder
	for _, d := range docs {
		for _, o := range d.Objects {
			fmt.Fprintf(&b, "# %s: %s (%s)\n", o.Name, o.Decision, o.Reason)
			for _, p := range o.Problems {
				fmt.Fprintf(&b, "#   %s\n", p)
			}
			if o.Hint != "" {
				fmt.Fprintf(&b, "#   hint: %s\n", o.Hint)
			}
		}
		fmt.Fprintf(&b, "%s", d.Text)
		if d.Changed {
			fmt.Fprintf(&b, "# diff\n%s", Diff(d.Before, d.After))
		}
		b.WriteString("---\n")
	}
	return b.String()
}

// check asks for what must hold of every document: what was printed is what
// the operations make of what kubectl would have sent.
func check(t *testing.T, doc Document) {
	t.Helper()
	text, err := sigsyaml.YAMLToJSON(doc.Text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, doc.Text)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	for i, p := range find(object, nil) {
		o := doc.Objects[i]
		if o.Result == nil {
			continue
		}
		got, err := json.Marshal(p.pod["spec"])
		if err != nil {
			t.Fatal(err)
		}
		again := mutate.Mutate(mutate.NewPod("default", mustMarshal(t, p.pod)), mutate.DefaultConfig())
		if again.Reason != mutate.AlreadyInjected {
			t.Errorf("%s: injecting again: %s (%s) %q", o.Name, again.Decision, again.Reason, again.Problems)
		}
		if want := mustMarshal(t, o.Result.Spec.InitContainers); !bytes.Contains(normal(t, got), normal(t, want)) {
			t.Errorf("%s: the init containers are not those that were injected", o.Name)
		}
	}
}

// normal is JSON with its keys in order.
func normal(t *testing.T, data []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	prune(v)
	return mustMarshal(t, v)
}

// prune takes out empty values, which a typed pod has more of.
func prune(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if m, ok := value.(map[string]any); ok && len(m) == 0 {
				delete(v, name)
				continue
			}
			prune(value)
		}
	case []any:
		for _, item := range v {
			prune(item)
		}
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestInjectRefusesWhatIsNoManifest(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a: [", "document 1: reading YAML"},
		{"a: 1\na: 2\n", `key "a" already defined`},
		{`{"kind": "Pod"}` + "\n" + `{"kind": "Pod"}`, "there is more behind its end"},
		{"a: 1\n---\njust text\n", "document 2: reading YAML: it is no object"},
	} {
		if _, err := Inject([]byte(c.text), "", mutate.DefaultConfig()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	docs, err := Inject([]byte("a: [\n---\nkind: Pod\n---\njust text\n"), "", mutate.DefaultConfig())
	if err == nil || !strings.Contains(err.Error(), "document 1: ") || !strings.Contains(err.Error(), "document 3: ") || len(docs) != 1 {
		t.Errorf("%d documents beside two broken ones: %v", len(docs), err)
	}
	if docs, err := Inject([]byte("# nothing\n---\n\n"), "", mutate.DefaultConfig()); err != nil || len(docs) != 0 {
		t.Errorf("a stream without documents: %v, %v", docs, err)
	}
}
