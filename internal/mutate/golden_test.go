package mutate

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the wanted results below testdata")

// golden is one case of testdata: a folder with pod.yaml, or review.json as an
// API server sent it; perhaps the operator's config.yaml; and the wanted
// result in want.json, or the wanted problems, one a line, in want.err.
type golden struct {
	name, dir string
	req       *Request
	object    []byte // of the request, as it was sent
	cfg       *Config
}

// want is the content of want.json.
type want struct {
	Decision Decision `json:"decision"`
	Reason   Reason   `json:"reason"`
	Warnings []string `json:"warnings,omitempty"`
	Patch    []Op     `json:"patch,omitempty"`
}

func goldens(t testing.TB) []golden {
	t.Helper()
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var cases []golden
	for _, d := range dirs {
		if d.Name() == "fuzz" {
			continue // where go test keeps what it found
		}
		cases = append(cases, load(t, d.Name()))
	}
	if len(cases) < 145 {
		t.Fatalf("%d cases in testdata, there were at least 145", len(cases))
	}
	return cases
}

func load(t testing.TB, name string) golden {
	t.Helper()
	c := golden{name: name, dir: filepath.Join("testdata", name), cfg: DefaultConfig()}
	files, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	wants := 0
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(c.dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch f.Name() {
		case "pod.yaml":
			c.req, c.object = podRequest(t, data)
		case "review.json":
			rv, err := readReview(data)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c.req, c.object = rv.Request.question(), objectOf(t, data)
		case "config.yaml":
			if c.cfg, err = ParseConfig(data); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		case "want.json", "want.err":
			wants++
		default:
			t.Fatalf("%s: stale file %s (pod.yaml or review.json, config.yaml, want.json or want.err)", name, f.Name())
		}
	}
	if c.req == nil {
		t.Fatalf("%s: neither pod.yaml nor review.json", name)
	}
	if wants != 1 && !*update {
		t.Fatalf("%s: %d wanted results (want.json or want.err; -update writes it)", name, wants)
	}
	return c
}

// objectOf is the object of a review, as it was sent.
func objectOf(t testing.TB, review []byte) []byte {
	t.Helper()
	// With names taken as the webhook takes them: an "Object" is another field.
	var rv struct {
		Request struct {
			Object json.RawMessage `json:"object"`
		} `json:"request"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(review, &rv); err != nil {
		t.Fatal(err)
	}
	return rv.Request.Object
}

func podRequest(t testing.TB, data []byte) (*Request, []byte) {
	t.Helper()
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		Metadata struct{ Namespace string }
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	return NewPod(or(head.Metadata.Namespace, "default"), raw), raw
}

func TestGolden(t *testing.T) {
	for _, c := range goldens(t) {
		t.Run(c.name, func(t *testing.T) {
			out := Mutate(c.req, c.cfg)
			name, got := "want.json", encodeWant(t, out)
			if out.Decision == Denied {
				name, got = "want.err", []byte(strings.Join(out.Problems, "\n")+"\n")
			}
			if *update {
				other := map[string]string{"want.json": "want.err", "want.err": "want.json"}[name]
				_ = os.Remove(filepath.Join(c.dir, other))
				if err := os.WriteFile(filepath.Join(c.dir, name), got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(filepath.Join(c.dir, name))
			if err != nil {
				t.Fatalf("%v\ngot:\n%s", err, got)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (-update rewrites it):\n%s", name, firstDifference(string(want), string(got)))
			}
		})
	}
}

func encodeWant(t testing.TB, out *Outcome) []byte {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(want{out.Decision, out.Reason, out.Warnings, out.Ops}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return "- " + a + "\n+ " + b
		}
	}
	return "(none)"
}

// keyIn finds the key that a problem is about where the problem begins with it: as
// `key is`, `part.key`, `"path" has key`, or as what an unknown one is taken for.
// That a word occurs somewhere, such as among what is allowed, says nothing.
var keyIn = regexp.MustCompile(`^(?:entry \d+: )?(?:(?:http|signal): )?` +
	`(?:unknown key "[^"]*" \(did you mean "|(?:"[^"]*" )?(?:has (?:both |neither |no |empty )?)?)(?:[a-z]+\.)?([a-zA-Z]+)`)

// Each annotation, and each key in the YAML of one, has a case in which it does
// its work and one in which it is refused by name, so that a new one cannot come
// without both.
func TestEveryRowHasCases(t *testing.T) {
	good, bad := make(map[string]bool), make(map[string]bool)
	for _, c := range goldens(t) {
		out := Mutate(c.req, c.cfg)
		if out.Decision == Injected && out.Reason == AskedFor {
			for name, value := range out.Pod.Annotations {
				good[name] = true
				for _, key := range keysIn(t, value) {
					good[name+" "+key] = true
				}
			}
		}
		for _, p := range out.Problems {
			row, what, _ := strings.Cut(p, ": ")
			bad[row] = true
			if m := keyIn.FindStringSubmatch(what); m != nil && !strings.Contains(what, "stands more than once") {
				bad[row+" "+m[1]] = true
			}
		}
	}
	var names []string
	for _, r := range table {
		names = append(names, r.name)
	}
	names = append(names, rowKeys("files", fileKeys)...)
	names = append(names, rowKeys("notify", notifyKeys)...)
	names = append(names, rowKeys("notify", httpKeys)...)
	names = append(names, rowKeys("notify", signalKeys)...)
	names = append(names, rowKeys("token-file", tokenKeys)...)
	for _, name := range names {
		if !good[Prefix+name] {
			t.Errorf("no case is injected with %s%s", Prefix, name)
		}
		if !bad[Prefix+name] {
			t.Errorf("no case is denied because of %s%s", Prefix, name)
		}
	}
}

func rowKeys[T any](row string, keys []key[T]) (names []string) {
	for _, k := range keys {
		names = append(names, row+" "+k.name)
	}
	return names
}

// keysIn are the keys of all maps in an annotation's YAML.
func keysIn(t *testing.T, value string) (keys []string) {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(value), &doc); err != nil {
		return nil // of a row that is no YAML
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, below := range v {
				keys = append(keys, name)
				walk(below)
			}
		case []any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(doc)
	return keys
}

// Each reason that does not depend on the transport has a case.
func TestEveryReasonHasACase(t *testing.T) {
	seen := map[Reason]bool{TooLarge: true, WrongContentType: true, InternalError: true, InvalidRequest: true, NotAPod: true, NotCreated: true}
	for _, c := range goldens(t) {
		seen[Mutate(c.req, c.cfg).Reason] = true
	}
	for reason, sentence := range reasons {
		if !seen[reason] {
			t.Errorf("no case has the reason %q", reason)
		}
		if sentence == "" || strings.HasSuffix(sentence, ".") {
			t.Errorf("reason %q has the sentence %q", reason, sentence)
		}
	}
}

func TestProblemsAreSortedAndWhole(t *testing.T) {
	for _, c := range goldens(t) {
		out := Mutate(c.req, c.cfg)
		if !slices.IsSortedFunc(out.Problems, func(a, b string) int { return strings.Compare(place(a), place(b)) }) {
			t.Errorf("%s: problems are not sorted: %q", c.name, out.Problems)
		}
		for _, p := range out.Problems {
			if !strings.Contains(p, ": ") || strings.HasSuffix(p, ".") {
				t.Errorf("%s: problem %q is not of the form `where: what (what is allowed)`", c.name, p)
			}
		}
	}
}
