package desired

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the wanted results below testdata")

// settings is what a case may have in settings.yaml.
type settings struct {
	MountType string   `json:"mountType"`
	Audience  string   `json:"audience"`
	Reserved  []string `json:"reserved"`
	// Sources limit the ConfigMaps of their names. One that is not in
	// configmap.yaml is missing.
	Sources []Source `json:"sources"`
}

// golden is one case of testdata: a folder with ConfigMaps in configmap.yaml,
// perhaps settings.yaml, and what becomes of them in want.yaml.
type golden struct {
	dir      string
	maps     []ConfigMap
	defaults Defaults
}

// want is the content of want.yaml. Fields with their defaults are left out.
type want struct {
	Roles    map[string]wantRole `json:"roles,omitempty"`
	Problems []string            `json:"problems,omitempty"`
}

type wantRole struct {
	From   string         `json:"from"`
	Fields map[string]any `json:"fields"`
}

func goldens(t testing.TB) []golden {
	t.Helper()
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var cases []golden
	for _, d := range dirs {
		if d.Name() != "fuzz" { // where go test keeps what it found
			cases = append(cases, load(t, filepath.Join("testdata", d.Name())))
		}
	}
	if len(cases) < 12 {
		t.Fatalf("%d cases in testdata, there were at least 12", len(cases))
	}
	return cases
}

func load(t testing.TB, dir string) golden {
	t.Helper()
	c := golden{dir: dir}
	set := settings{MountType: "kubernetes", Audience: "vault", Reserved: []string{"latchkey-probe"}}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]ConfigMap)
	var names []string
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		switch f.Name() {
		case "configmap.yaml":
			for _, m := range configMaps(t, data) {
				found[m.Source.String()] = m
				names = append(names, m.Source.String())
			}
		case "settings.yaml":
			if err := sigsyaml.UnmarshalStrict(data, &set); err != nil {
				t.Fatalf("%s: %v", dir, err)
			}
		case "want.yaml":
		default:
			t.Fatalf("%s: stale file %s (configmap.yaml, settings.yaml, want.yaml)", dir, f.Name())
		}
	}
	c.defaults = Defaults{MountType: set.MountType, Audience: set.Audience, Reserved: set.Reserved}
	for _, s := range set.Sources {
		m, ok := found[s.String()]
		m.Source, m.Missing = s, !ok
		c.maps = append(c.maps, m)
	}
	if len(set.Sources) == 0 {
		for _, name := range names {
			c.maps = append(c.maps, found[name])
		}
	}
	return c
}

// configMaps reads ConfigMaps as people write them.
func configMaps(t testing.TB, data []byte) []ConfigMap {
	t.Helper()
	var maps []ConfigMap
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
			Data     map[string]string
			Binary   map[string]string `yaml:"binaryData"`
		}
		err := d.Decode(&doc)
		if err == io.EOF {
			return maps
		}
		if err != nil || doc.Kind != "ConfigMap" {
			t.Fatalf("a %q is no ConfigMap: %v", doc.Kind, err)
		}
		m := ConfigMap{Source: Source{Namespace: doc.Metadata.Namespace, Name: doc.Metadata.Name}, Data: doc.Data}
		for k := range doc.Binary {
			m.Binary = append(m.Binary, k)
		}
		maps = append(maps, m)
	}
}

func TestRolesAreUnderstood(t *testing.T) {
	for _, c := range goldens(t) {
		t.Run(filepath.Base(c.dir), func(t *testing.T) {
			file := filepath.Join(c.dir, "want.yaml")
			got := encode(t, Parse(c.maps, c.defaults), c.defaults)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (-update writes it)", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func encode(t testing.TB, r Roles, d Defaults) []byte {
	t.Helper()
	var w want
	for name, role := range r.Roles {
		if w.Roles == nil {
			w.Roles = make(map[string]wantRole)
		}
		fields := make(map[string]any)
		defaults := Canonical(d.MountType, map[string]any{})
		for k, v := range role.Fields {
			if !Equal(Fields{k: v}, Fields{k: defaults[k]}) {
				fields[k] = v
			}
		}
		w.Roles[name] = wantRole{role.Source + ", key " + role.Key, fields}
	}
	for _, p := range r.Problems {
		w.Problems = append(w.Problems, p.String())
	}
	out, err := sigsyaml.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What Vault answers of a role that was written is equal to what was asked for:
// nothing differs, so nothing is written again.
func TestCanonicalIsWhatParseSaid(t *testing.T) {
	roles := 0
	for _, c := range goldens(t) {
		for name, role := range Parse(c.maps, c.defaults).Roles {
			roles++
			if got := Canonical(c.defaults.MountType, answered(t, role.Fields)); !Equal(got, role.Fields) {
				t.Errorf("%s: role %s is\n%v\nread back\n%v", c.dir, name, role.Fields, got)
			}
		}
	}
	if roles < 10 {
		t.Errorf("%d roles in testdata", roles)
	}
}

// answered is fields as they come out of Vault.
func answered(t testing.TB, f Fields) map[string]any {
	t.Helper()
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var raw map[string]any
	if err := d.Decode(&raw); err != nil {
		t.Fatal(err)
	}
	return raw
}
