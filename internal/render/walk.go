package render

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"text/template/parse"
)

// ParsePath splits what a template gives to secret into an API path without
// slashes around it and a query, of which only version=N is known.
func ParsePath(secret string) (p string, query url.Values, err error) {
	p, raw, _ := strings.Cut(strings.Trim(strings.TrimSpace(secret), "/"), "?")
	query, err = url.ParseQuery(raw)
	if err != nil || len(query) > 1 || len(query) == 1 && !query.Has("version") {
		return "", nil, fmt.Errorf("secret %q has a query (only ?version=N is known)", secret)
	}
	if p == "" || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "#\\") {
		return "", nil, fmt.Errorf("secret %q is no path (an API path such as \"kv/app\")", secret)
	}
	return p, query, nil
}

// inspect finds what the parser lets pass but execution would refuse, and
// returns the first of it in the text.
func (p *parsed) inspect(text string, o Options) error {
	var first error
	at := parse.Pos(len(text) + 1)
	for _, tree := range p.trees {
		walk(tree.Root, false, func(n parse.Node, piped bool) {
			if n.Position() >= at {
				return // what stands before it is told, and wording an error costs more than finding it
			}
			where, err := p.inspectNode(n, piped, o)
			if err == nil {
				return
			}
			if where == nil {
				where = n
			}
			if where.Position() < at {
				first, at = err, where.Position()
			}
		})
	}
	if first == nil {
		return nil
	}
	before := text[:at]
	line := strings.Count(before, "\n") + 1
	column := len(before) - strings.LastIndex(before, "\n")
	return errors.New(place(line, column) + ": " + first.Error())
}

// inspectNode returns what is wrong, and which node below n is at fault if it is
// not n.
func (p *parsed) inspectNode(n parse.Node, piped bool, o Options) (parse.Node, error) {
	switch n := n.(type) {
	case *parse.TemplateNode:
		if p.trees[n.Name] == nil {
			return nil, fmt.Errorf("template %q not defined", n.Name)
		}
	case *parse.IdentifierNode:
		if err := checkFunction(n.Ident); err != nil {
			return nil, err
		}
		p.calls[n.Ident] = true
	case *parse.CommandNode:
		return inspectCall(n, piped, o)
	}
	return nil, nil
}

// inspectCall looks at the arguments that a call states as they are.
func inspectCall(n *parse.CommandNode, piped bool, o Options) (parse.Node, error) {
	name, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		return nil, nil
	}
	given := len(n.Args) - 1
	if piped {
		given++
	}
	literal := func(i int) (parse.Node, string, bool) {
		if i >= len(n.Args) {
			return nil, "", false
		}
		s, ok := n.Args[i].(*parse.StringNode)
		if !ok {
			return nil, "", false
		}
		return s, s.Text, true
	}
	switch name.Ident {
	case "secret", "secrets", "pkiCert":
		if given == 0 || name.Ident == "secrets" && given > 1 {
			return name, fmt.Errorf("%s takes %s, not %d arguments", name.Ident, pathArguments[name.Ident], given)
		}
		if at, p, ok := literal(1); ok {
			if _, query, err := ParsePath(p); err != nil {
				return at, err
			} else if len(query) > 0 && (given > 1 || name.Ident != "secret") {
				return at, fmt.Errorf("secret %q has a query (none with a write or a list)", p)
			}
		}
		for i := 2; i < len(n.Args); i++ {
			if at, parameter, ok := literal(i); ok && parameter != "" && !strings.Contains(parameter, "=") {
				return at, fmt.Errorf("%s has parameter %q (name=value)", name.Ident, parameter)
			}
		}
	case "env", "mustEnv", "envOrDefault":
		if at, variable, ok := literal(1); ok {
			return at, showsVariable(o.Show, variable, variable)
		}
	case "file":
		if at, file, ok := literal(1); ok && file != "" {
			_, _, err := showsFile(o.Show, file, file)
			return at, err
		}
	}
	return nil, nil
}

var pathArguments = map[string]string{
	"secret": "a path, and parameters for a write", "secrets": "one path", "pkiCert": "a path and parameters",
}

// walk visits a node and all below it in the order of the text; piped says
// whether a command gets the value of another one.
func walk(n parse.Node, piped bool, visit func(n parse.Node, piped bool)) {
	var below []parse.Node
	pipe := func(p *parse.PipeNode) {
		if p != nil {
			below = append(below, p)
		}
	}
	list := func(l *parse.ListNode) {
		if l != nil {
			below = append(below, l)
		}
	}
	branch := func(b parse.BranchNode) { pipe(b.Pipe); list(b.List); list(b.ElseList) }
	visit(n, piped)
	switch n := n.(type) {
	case *parse.ListNode:
		below = n.Nodes
	case *parse.ActionNode:
		pipe(n.Pipe)
	case *parse.IfNode:
		branch(n.BranchNode)
	case *parse.RangeNode:
		branch(n.BranchNode)
	case *parse.WithNode:
		branch(n.BranchNode)
	case *parse.TemplateNode:
		pipe(n.Pipe)
	case *parse.ChainNode:
		below = []parse.Node{n.Node}
	case *parse.CommandNode:
		below = n.Args
	case *parse.PipeNode:
		for i, command := range n.Cmds {
			walk(command, i > 0, visit)
		}
	}
	for _, child := range below {
		walk(child, false, visit)
	}
}
