package render

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// Request is what a file asks of Vault.
type Request struct {
	// Path is an API path, in a template with a query where one is allowed.
	Path string
	// KV is 1 or 2 where the file says which KV version lies there, else 0.
	KV int
	// Data, unless nil, makes a write of it.
	Data map[string]any
	// List asks for the names below Path, which the answer has as "keys".
	List bool
}

// Lookup returns the answer to a request.
type Lookup func(Request) (*Secret, error)

// Output is one file as it is to be published.
type Output struct {
	Path    string
	Content sealed.Value[[]byte]
}

// Result is what one round makes of an entry.
type Result struct {
	Files []Output
	// Unchanged means that the files which Published stood for are still those
	// to publish; there are no Files then.
	Unchanged bool
	// Inputs is a digest of what the files were made of, where rendering them
	// once more would give other bytes; else it is empty.
	Inputs string
}

// Renderer makes the bytes of one entry's files. It is not safe for concurrent
// use.
type Renderer struct {
	file    config.File
	options Options
	trees   map[string]*parse.Tree
	tmpl    *template.Template
	// unsteady says that the template calls a function that gives another result
	// each time.
	unsteady bool

	// The rest is set while Render runs: between rounds nothing may hold on to
	// the secrets of the last one.
	execution
}

// execution is what one execution of a template keeps.
type execution struct {
	lookup  Lookup
	views   map[*Secret]*View
	scratch *scratch
	inputs  inputs
	depth   int
}

// New parses the file's template, if it has one; see Check for its errors.
func New(f config.File, o Options) (*Renderer, error) {
	r := &Renderer{file: f, options: o}
	if f.Template == "" {
		return r, nil
	}
	p, err := parseTemplate(f.Template, o)
	if err == nil {
		r.tmpl, err = p.withFunctions(r.function)
	}
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", f.Path, err)
	}
	r.trees = p.trees
	if f.AllowMissingKeys {
		r.tmpl.Option("missingkey=zero")
	} else {
		r.tmpl.Option("missingkey=error")
	}
	for name := range p.calls {
		r.unsteady = r.unsteady || unsteady[name]
	}
	return r, nil
}

// Render returns the entry's files, all of them from the same answers.
// Published is the Inputs of the files that are published, or empty. An error of
// lookup comes back as it is; every other error says where in the template, or
// which key, and never holds a value of a secret.
func (r *Renderer) Render(lookup Lookup, published string) (Result, error) {
	if r.tmpl == nil {
		s, err := lookup(Request{Path: r.file.Secret, KV: r.file.KV, Data: r.file.Data})
		if err != nil {
			return Result{}, err
		}
		files, err := fileset(r.file, s)
		return Result{Files: files}, err
	}
	r.execution = execution{lookup: lookup, scratch: &scratch{}}
	defer func() { r.execution = execution{} }()
	r.inputs.add("template", r.file.Template)
	var b bytes.Buffer
	if err := r.tmpl.Execute(&b, nil); err != nil {
		return Result{}, clean(err)
	}
	result := Result{Files: []Output{{r.file.Path, sealed.Of(b.Bytes())}}}
	if r.unsteady {
		result.Inputs = r.inputs.sum()
		if result.Inputs == published {
			return Result{Unchanged: true, Inputs: published}, nil
		}
	}
	return result, nil
}

// called is how an error may call a string that a function was given: by its
// name if the template states it, which anybody may read, and else not at all,
// since it may be made of a secret.
func (r *Renderer) called(s string) string {
	stated := false
	for _, tree := range r.trees {
		walk(tree.Root, false, func(n parse.Node, _ bool) {
			literal, ok := n.(*parse.StringNode)
			stated = stated || ok && literal.Text == s
		})
	}
	if stated {
		return s
	}
	return "(what the template made)"
}

var (
	// execError is how text/template words an error of execution: a name (empty
	// here), line and column (from 0), what was evaluated, and a cause.
	execError = regexp.MustCompile(`(?s)^template: ?[^:]*:(\d+):(\d+): executing ".*?" at <(.*?)>: (.*)$`)
	missing   = regexp.MustCompile(`^map has no entry for key (".*")$`)
	// harmless are the causes that are made of types and of the template's own
	// text. All others may hold a value, as "range can't iterate over …" does.
	harmless = regexp.MustCompile(`^(can't evaluate field \w+ in type \S.*|nil pointer evaluating \S+|nil data; no entry for key ".*"` +
		`|wrong type for value; expected .+; got .+|wrong number of args for \w+: want .+ got \d+|template ".*" not defined)$`)
)

// versionHint says where a KV engine of the other version has its keys, for an
// expression that lacks the key (quoted) where only one of them would have it.
func versionHint(expression, key string) string {
	switch {
	case !strings.HasPrefix(expression, ".Data."):
		return ""
	case key == `"data"`:
		return " (only those of KV version 2 are below .Data.data)"
	case !strings.HasPrefix(expression, ".Data.data."):
		return " (those of KV version 2 are below .Data.data)"
	}
	return ""
}

// clean turns an error of execution into one that holds no value of a secret.
func clean(err error) error {
	var lookup *lookupError
	if errors.As(err, &lookup) {
		return lookup.error
	}
	// The innermost is what executeTemplate executed.
	var at template.ExecError
	for inner := err; errors.As(inner, &at); inner = errors.Unwrap(at.Err) {
		err = at
	}
	m := execError.FindStringSubmatch(err.Error())
	if m == nil {
		return plain("template cannot be executed")
	}
	column, _ := strconv.Atoi(m[2])
	cause := "cannot be evaluated with this secret's data"
	var own plain
	switch key := missing.FindStringSubmatch(m[4]); {
	case errors.As(err, &own):
		cause = own.Error()
	case key != nil:
		cause = "secret has no key " + key[1] + versionHint(m[3], key[1])
	case harmless.MatchString(m[4]):
		cause = m[4]
	}
	return plain(fmt.Sprintf("line %s, column %d: %s: %s", m[1], column+1, m[3], cause))
}
