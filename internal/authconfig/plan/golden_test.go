package plan_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

var update = flag.Bool("update", false, "rewrite testdata/*/plan.txt")

// A caseFile is testdata/<case>/in.yaml. Hashes in its record are written as
// "of observed <role>" or "of wanted <role>".
type caseFile struct {
	Target   plan.Target
	Observed plan.Observed
	Record   plan.Record
	// WantedTune and ObservedTune have their durations as text.
	WantedTune, ObservedTune tune
}

type tune struct{ Description, DefaultLeaseTTL, MaxLeaseTTL string }

func (f tune) tune(t *testing.T) plan.Tune {
	duration := func(text string) time.Duration {
		if text == "" {
			return 0
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return plan.Tune{Description: f.Description, DefaultLeaseTTL: duration(f.DefaultLeaseTTL), MaxLeaseTTL: duration(f.MaxLeaseTTL)}
}

func load(t *testing.T, file string) caseFile {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c caseFile
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	c.Target.Tune = c.WantedTune.tune(t)
	if c.Observed.Mount != nil {
		c.Observed.Mount.Tune = c.ObservedTune.tune(t)
	}
	typ := c.Target.Type
	c.Target.Config = desired.CanonicalConfig(typ, c.Target.Config)
	c.Observed.Config = desired.CanonicalConfig(typ, c.Observed.Config)
	hashes := make(map[string]string)
	for _, roles := range []map[string]desired.Role{c.Target.Own, c.Target.Roles.Roles} {
		for name, role := range roles {
			role.Fields = desired.Canonical(typ, role.Fields)
			roles[name], hashes["of wanted "+name] = role, plan.Hash(role.Fields)
		}
	}
	for name, fields := range c.Observed.Roles {
		fields = desired.Canonical(typ, fields)
		c.Observed.Roles[name], hashes["of observed "+name] = fields, plan.Hash(fields)
	}
	for name, role := range c.Record.Roles {
		for _, hash := range []*string{&role.Hash, &role.Next} {
			if real, ok := hashes[*hash]; ok {
				*hash = real
			}
		}
		c.Record.Roles[name] = role
	}
	if c.Record.Mount != "" {
		c.Record.Version = plan.RecordVersion
	}
	return c
}

func TestPlans(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := load(t, filepath.Join(dir, "in.yaml"))
			p := plan.Compute(c.Target, c.Observed, c.Record)
			var got bytes.Buffer
			if err := p.Print(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "plan.txt")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("the plan is\n%s\nand not\n%s", &got, want)
			}
		})
	}
	files, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if base := filepath.Base(file); base != "in.yaml" && base != "plan.txt" {
			t.Errorf("%s is read by no test", file)
		}
	}
}
