package render

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"text/template"

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
}

// Lookup returns the answer to a request.
type Lookup func(Request) (*Secret, error)

// Output is one file as it is to be published.
type Output struct {
	Path    string
	Content sealed.Value[[]byte]
}

// Renderer makes the bytes of one entry's files. It is not safe for concurrent
// use.
type Renderer struct {
	file config.File
	tmpl *template.Template
	// lookup is set while Render runs: between rounds nothing may hold on to
	// the secrets of the last one.
	lookup Lookup
}

// New parses the file's template, if it has one; see Check for its errors.
func New(f config.File) (*Renderer, error) {
	r := &Renderer{file: f}
	if f.Template == "" {
		return r, nil
	}
	t, err := parseTemplate(f.Template)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", f.Path, err)
	}
	r.tmpl = t.Funcs(template.FuncMap{"secret": r.secret})
	return r, nil
}

// Render returns the entry's files, all of them from the same answers. An error
// of lookup comes back as it is; every other error says where in the template,
// or which key, and never holds a value of a secret.
func (r *Renderer) Render(lookup Lookup) ([]Output, error) {
	if r.tmpl == nil {
		s, err := lookup(Request{Path: r.file.Secret, KV: r.file.KV, Data: r.file.Data})
		if err != nil {
			return nil, err
		}
		return fileset(r.file, s)
	}
	r.lookup = lookup
	defer func() { r.lookup = nil }()
	var b bytes.Buffer
	if err := r.tmpl.Execute(&b, nil); err != nil {
		return nil, clean(err)
	}
	return []Output{{r.file.Path, sealed.Of(b.Bytes())}}, nil
}

// secret is the template function of that name.
func (r *Renderer) secret(path string) (*View, error) {
	s, err := r.lookup(Request{Path: path})
	if err != nil {
		return nil, &lookupError{err}
	}
	return s.Reveal(), nil
}

// lookupError carries an error of Lookup through the template's execution.
type lookupError struct{ error }

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

// clean turns an error of execution into one that holds no value of a secret.
func clean(err error) error {
	var lookup *lookupError
	if errors.As(err, &lookup) {
		return lookup.error
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
		cause = "secret has no key " + key[1]
	case harmless.MatchString(m[4]):
		cause = m[4]
	}
	return plain(fmt.Sprintf("line %s, column %d: %s: %s", m[1], column+1, m[3], cause))
}
