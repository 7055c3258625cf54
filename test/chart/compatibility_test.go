package chart

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCompatibilityIsShown holds that docs/compatibility.md leaves no row out,
// and that each row names a test that there is, or says why there is none.
func TestCompatibilityIsShown(t *testing.T) {
	t.Parallel()
	tests := testsOfTheTree(t)
	f, err := os.Open(checkout + "/docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	row := regexp.MustCompile(`^\| ((?:VAK|BL)-[0-9]+) \|`)
	named := regexp.MustCompile("`(Test[A-Za-z0-9_]*)`")
	var rows []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		id := row.FindStringSubmatch(lines.Text())
		if id == nil {
			continue
		}
		rows = append(rows, id[1])
		cells := strings.Split(strings.Trim(lines.Text(), "|"), " | ")
		if len(cells) != 4 {
			t.Errorf("%s has %d cells, want 4", id[1], len(cells))
			continue
		}
		shown := named.FindAllStringSubmatch(cells[3], -1)
		if len(shown) == 0 && !strings.HasPrefix(strings.TrimSpace(cells[3]), "Nothing: ") {
			t.Errorf("%s names no test (`TestName`, or \"Nothing: \" and why): %s", id[1], cells[3])
		}
		for _, name := range shown {
			if n := tests[name[1]]; n != 1 {
				t.Errorf("%s: there are %d tests called %s, want one that a reader can find", id[1], n, name[1])
			}
		}
	}
	var want []string
	for i := 1; i <= 35; i++ {
		want = append(want, "VAK-"+strconv.Itoa(i))
	}
	for i := 1; i <= 10; i++ {
		want = append(want, "BL-"+strconv.Itoa(i))
	}
	if !slices.Equal(rows, want) {
		t.Errorf("the rows are %q, want VAK-1 to 35 and BL-1 to 10", rows)
	}
}

// testsOfTheTree says how many tests of the repository have a name.
func testsOfTheTree(t *testing.T) map[string]int {
	t.Helper()
	test := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]*)\(`)
	names := map[string]int{}
	err := filepath.WalkDir(checkout, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != checkout, d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range test.FindAllStringSubmatch(string(source), -1) {
			names[m[1]]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
