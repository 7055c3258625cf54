package build

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// table is a small checkout's: one program with a version, two from one module, and one that nobody builds by chance.
var table = []source{
	{name: "one", dir: "one", programs: []string{"one"}, packages: []string{"."}},
	{name: "pair", dir: "pair", programs: []string{"left", "right"}, packages: []string{"./left", "./right"}},
	{name: "rare", dir: "one", programs: []string{"rare"}, packages: []string{"."}, onDemand: true,
		files: folder{module: "example.com/one", path: "some/data"}},
}

// checkout writes the files of table and returns a builder that logs into log.
func checkout(t *testing.T, log *bytes.Buffer) *builder {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "one", "go.mod"), "module example.com/one\n\ngo 1.26.0\n")
	write(t, filepath.Join(root, "one", "main.go"), program("one"))
	write(t, filepath.Join(root, "one", "some", "data", "file.yaml"), "content")
	write(t, filepath.Join(root, "pair", "go.mod"), "module example.com/pair\n\ngo 1.26.0\n")
	write(t, filepath.Join(root, "pair", "left", "main.go"), program("left"))
	write(t, filepath.Join(root, "pair", "right", "main.go"), program("right"))
	b, err := newBuilder(Options{Root: root, Cache: filepath.Join(root, "cache"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func program(word string) string {
	return "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"" + word + "\") }\n"
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, b *builder, want ...string) Parts {
	t.Helper()
	parts, err := b.ensure(t.Context(), table, want)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func output(t *testing.T, path string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBuildsOnceAndAgainWhenASourceChanged(t *testing.T) {
	t.Setenv("GOFLAGS", "-mod=mod -tags=ambient") // the caller's settings are not ours
	var log bytes.Buffer
	b := checkout(t, &log)

	first := ensure(t, b)
	for _, name := range []string{"one", "left", "right"} {
		if got := output(t, first[name]); got != name {
			t.Errorf("%s prints %q", name, got)
		}
	}
	if _, ok := first["rare"]; ok || len(first) != 3 {
		t.Errorf("parts %v: want one, left and right", first)
	}
	want := "building one (1 of 2)\nbuilding pair (2 of 2)\nbuilt what the cluster is made of in "
	if !strings.HasPrefix(log.String(), want) {
		t.Errorf("log:\n%s\nwant:\n%s", &log, want)
	}

	log.Reset()
	if second := ensure(t, b); second["one"] != first["one"] || log.Len() > 0 {
		t.Errorf("the second run gave %s after %s and logged %q", second["one"], first["one"], &log)
	}

	write(t, filepath.Join(b.root, "one", "main.go"), program("new"))
	changed := ensure(t, b)
	if changed["one"] == first["one"] || output(t, changed["one"]) != "new" {
		t.Errorf("the changed program is %s, which prints %q", changed["one"], output(t, changed["one"]))
	}
	if changed["left"] != first["left"] {
		t.Errorf("left moved from %s to %s though nothing of it changed", first["left"], changed["left"])
	}
	if got := output(t, first["one"]); got != "one" {
		t.Errorf("the old path now prints %q", got)
	}
}

func TestOnlyWhatIsWanted(t *testing.T) {
	var log bytes.Buffer
	b := checkout(t, &log)
	parts := ensure(t, b, "rare")
	if len(parts) != 1 || filepath.Base(parts["rare"]) != "rare" {
		t.Errorf("parts %v: want rare alone", parts)
	}
	if got, err := os.ReadFile(filepath.Join(filepath.Dir(parts["rare"]), "data", "file.yaml")); string(got) != "content" {
		t.Errorf("the file beside the program holds %q (%v)", got, err)
	}
	_, err := b.ensure(t.Context(), table, []string{"kubelte"})
	if want := `no part of the cluster is called "kubelte" (there are left, one, rare, right)`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestFailedBuildShowsWhyAndLeavesNothing(t *testing.T) {
	var log bytes.Buffer
	b := checkout(t, &log)
	write(t, filepath.Join(b.root, "one", "main.go"), "package main\n\nfunc main() { undefinedName() }\n")
	_, err := b.ensure(t.Context(), table, []string{"one"})
	if err == nil || !strings.Contains(err.Error(), "building one: go build in one") || !strings.Contains(err.Error(), "undefined: undefinedName") {
		t.Errorf("error %v, want the compiler's", err)
	}
	left, err := os.ReadDir(b.entries())
	if err != nil || len(left) > 0 {
		t.Errorf("the cache holds %v, %v", left, err)
	}
}

func TestTwoRunsBuildOnce(t *testing.T) {
	var logs [2]bytes.Buffer
	b := checkout(t, &logs[0])
	other := *b
	other.log = &logs[1]
	var runs sync.WaitGroup
	for _, b := range []*builder{b, &other} {
		runs.Go(func() {
			if _, err := b.ensure(t.Context(), table, nil); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	all := logs[0].String() + logs[1].String()
	if n := strings.Count(all, "building one"); n != 1 {
		t.Errorf("one was built %d times:\n%s", n, all)
	}
}

func TestPruneKeepsWhatIsUsed(t *testing.T) {
	var log bytes.Buffer
	b := checkout(t, &log)
	old := time.Now().Add(-15 * 24 * time.Hour)
	one := filepath.Dir(ensure(t, b, "one")["one"])
	unused := filepath.Join(b.entries(), "one-0123456789abcdef")
	young := filepath.Join(b.entries(), "one-fedcba9876543210")
	killed := filepath.Join(b.entries(), "tmp-42")
	for _, dir := range []string{unused, young, killed} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{unused, one} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	ensure(t, b) // uses one, builds pair
	for dir, want := range map[string]bool{one: true, young: true, unused: false, killed: false} {
		if exists(dir) != want {
			t.Errorf("%s: kept is %t, want %t", filepath.Base(dir), !want, want)
		}
	}
}

// lines is a log that hands over each line.
type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- string(p); return len(p), nil }

func TestProgressIsSaidWhileItTakesLong(t *testing.T) {
	log := make(lines, 100)
	b := &builder{log: log, progress: time.Millisecond}
	stop := b.report("building kubernetes (1 of 8)")
	first, second := <-log, <-log
	stop()
	if first != "building kubernetes (1 of 8)\n" || second != "building kubernetes (1 of 8) … 0s\n" {
		t.Errorf("log %q, %q", first, second)
	}
}

// TestSources checks the real table against the checkout.
func TestSources(t *testing.T) {
	b, err := newBuilder(Options{Root: filepath.Join("..", "..", "..")})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range sources {
		all = append(all, s.programs...)
		if s.deb != "" {
			continue
		}
		if len(s.programs) != len(s.packages) {
			t.Errorf("%s: %d programs of %d packages", s.name, len(s.programs), len(s.packages))
		}
		module, err := os.ReadFile(filepath.Join(b.root, s.dir, "go.mod"))
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for _, pkg := range s.packages {
			if strings.HasPrefix(pkg, ".") {
				if matches, _ := filepath.Glob(filepath.Join(b.root, s.dir, pkg, "main.go")); len(matches) != 1 {
					t.Errorf("%s: no main.go in %s", s.name, pkg)
				}
			} else if !slices.Contains(strings.Fields(string(module)), pkg) {
				t.Errorf("%s: its go.mod has no tool line for %s", s.name, pkg)
			}
		}
		if _, err := b.ldflags(s); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	if slices.Sort(all); len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("a program comes from two sources: %v", all)
	}
	if flags, _ := b.ldflags(sources[0]); flags != "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3"+
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" {
		t.Errorf("flags of Kubernetes: %s", flags)
	}
}
