// Package corpus holds templates that are rendered by consul-template, which is
// what Vault Agent renders with, and by the agent, from the same Vault.
package corpus

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed testdata
var testdata embed.FS

// A Case is one template. Its files are lists of
//
//	-- name --
//	template
//
// where "@" in front of a template makes kv/app's own data its dot.
type Case struct {
	Name     string // file and name
	Template string
	// Lenient cases print "<no value>" for missing keys.
	Lenient bool
}

// Cases returns all of them, in the order of their files.
func Cases() ([]Case, error) {
	files, err := fs.Glob(testdata, "testdata/*.txt")
	if err != nil {
		return nil, err
	}
	var cases []Case
	seen := make(map[string]bool)
	for _, file := range files {
		data, err := testdata.ReadFile(file)
		if err != nil {
			return nil, err
		}
		area := strings.TrimSuffix(path.Base(file), ".txt")
		for part := range strings.SplitSeq("\n"+strings.TrimSuffix(string(data), "\n"), "\n-- ") {
			title, text, ok := strings.Cut(part, " --\n")
			if !ok {
				continue
			}
			c := Case{Name: area + ": " + title, Template: text, Lenient: area == "lenient"}
			if rest, ok := strings.CutPrefix(text, "@"); ok {
				c.Template = `{{ with secret "kv/app" }}{{ with .Data.data }}` + rest + `{{ end }}{{ end }}`
			}
			if seen[c.Name] {
				return nil, fmt.Errorf("%s stands more than once", c.Name)
			}
			seen[c.Name] = true
			cases = append(cases, c)
		}
	}
	return cases, nil
}
