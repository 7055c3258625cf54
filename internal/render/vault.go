package render

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
)

// deepest bounds how far executeTemplate calls itself: text/template bounds its
// own action only.
const deepest = 100

// secret is the template function of that name: with a path alone a read, with
// parameters as well a write.
func (r *Renderer) secret(args ...string) (*View, error) {
	q, err := r.request("secret", args)
	if err != nil {
		return nil, err
	}
	if len(args) == 1 {
		q.Data = nil
	}
	s, err := r.ask(q)
	if err != nil {
		return nil, err
	}
	return r.view(s), nil
}

// secrets lists the names below a path, those with more below them with a final
// slash.
func (r *Renderer) secrets(path string) ([]string, error) {
	q, err := r.request("secrets", []string{path})
	if err != nil {
		return nil, err
	}
	s, err := r.ask(Request{Path: q.Path, List: true})
	if err != nil {
		return nil, err
	}
	list, _ := s.Reveal().Data["keys"].([]any)
	var names []string
	for _, name := range list {
		text, ok := name.(string)
		if !ok {
			return nil, plain("the answer to a list holds what is no name")
		}
		names = append(names, text)
	}
	slices.Sort(names)
	return names, nil
}

// pkiCert is a write whose answer has a certificate.
func (r *Renderer) pkiCert(args ...string) (certificate, error) {
	q, err := r.request("pkiCert", args)
	if err != nil {
		return certificate{}, err
	}
	s, err := r.ask(q)
	if err != nil {
		return certificate{}, err
	}
	return newCertificate(s.Reveal().Data)
}

// request reads the arguments of a function that asks Vault: a path, and
// parameters as name=value without the white space around either.
func (r *Renderer) request(function string, args []string) (Request, error) {
	if len(args) == 0 {
		return Request{}, plain(function + " takes " + pathArguments[function])
	}
	q := Request{Path: args[0], Data: make(map[string]any)}
	_, query, err := ParsePath(q.Path)
	switch {
	case err != nil && r.called(q.Path) == q.Path:
		return Request{}, plain(err.Error())
	case err != nil: // the path may hold anything
		return Request{}, plain(function + " is given what is no path (an API path such as \"kv/app\")")
	case len(query) > 0 && (function != "secret" || len(args) > 1):
		return Request{}, plain(function + " is given a path with a query (none with a write or a list)")
	}
	for _, arg := range args[1:] {
		if arg == "" {
			continue
		}
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return Request{}, plain(function + " is given a parameter without \"=\" (name=value)")
		}
		q.Data[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return q, nil
}

// ask looks a request up, and remembers the answer as an input.
func (r *Renderer) ask(q Request) (*Secret, error) {
	s, err := r.lookup(q)
	if err != nil {
		return nil, &lookupError{err}
	}
	if r.unsteady {
		v := s.Reveal()
		data, err := json.Marshal(v.Data)
		if err != nil {
			return nil, unwritten("JSON")
		}
		r.inputs.add("answer", q.Path, v.LeaseID, string(data))
	}
	return s, nil
}

// view is what this execution sees of a secret: a copy, since functions such as
// mergeMap change what they are given, and always the same one. The request's
// ID is left out: it would make another file of every read.
func (r *Renderer) view(s *Secret) *View {
	if v, ok := r.views[s]; ok {
		return v
	}
	v := *s.Reveal()
	v.RequestID = ""
	v.Data, _ = copyOf(v.Data).(map[string]any)
	if r.views == nil {
		r.views = make(map[*Secret]*View)
	}
	r.views[s] = &v
	return &v
}

// lookupError carries an error of Lookup through the template's execution.
type lookupError struct{ error }

func (e *lookupError) Unwrap() error { return e.error }

// executeTemplate gives the text of a template that {{define}} named.
func (r *Renderer) executeTemplate(name string, dot ...any) (string, error) {
	if len(dot) > 1 {
		return "", plain(fmt.Sprintf("executeTemplate takes a name and one value, not %d values", len(dot)))
	}
	if r.tmpl.Lookup(name) == nil {
		return "", plain(fmt.Sprintf("template %q not defined", r.called(name)))
	}
	if r.depth++; r.depth > deepest {
		return "", plain(fmt.Sprintf("executeTemplate calls itself more than %d times", deepest))
	}
	defer func() { r.depth-- }()
	var b strings.Builder
	err := r.tmpl.ExecuteTemplate(&b, name, append(dot, nil)[0])
	return b.String(), err
}

// fail ends the execution with a message, which is shown if it stands in the
// template: it may be made of a secret otherwise.
func (r *Renderer) fail(message string) (string, error) { return "", plain(r.called(message)) }

// certificate is what pkiCert gives, with the names that Vault Agent has for it.
type certificate struct {
	Cert, Key, CA string
	CAChain       []string
}

// Data is the certificate itself, so that it reads like a secret of KV v2.
func (c certificate) Data() certificate { return c }

// newCertificate takes an answer of a PKI engine apart. Each block ends with a
// newline. CA is the issuer, and CAChain begins with it.
func newCertificate(data map[string]any) (c certificate, err error) {
	blocks := func(v any) (found []string) {
		text, _ := v.(string)
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return found
			}
			found = append(found, string(pem.EncodeToMemory(block)))
		}
	}
	if found := blocks(data["certificate"]); len(found) > 0 {
		c.Cert = found[0]
	}
	if found := blocks(data["private_key"]); len(found) > 0 {
		c.Key = found[0]
	}
	authorities := blocks(data["issuing_ca"])
	chain, _ := data["ca_chain"].([]any)
	for _, entry := range chain {
		authorities = append(authorities, blocks(entry)...)
	}
	for _, authority := range authorities {
		if !slices.Contains(c.CAChain, authority) {
			c.CAChain = append(c.CAChain, authority)
		}
	}
	if len(c.CAChain) > 0 {
		c.CA = c.CAChain[0]
	}
	if c.Cert == "" {
		return c, plain("pkiCert is answered without a certificate (a path such as \"pki/issue/web\")")
	}
	return c, nil
}
