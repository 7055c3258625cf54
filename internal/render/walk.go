package render

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"text/template"
	"text/template/parse"
)

// ParsePath splits what a template gives to secret into an API path without
// slashes around it and a query, of which only version=N is known.
func ParsePath(secret string) (p string, query url.Values, err error) {
	p, raw, _ := strings.Cut(strings.Trim(secret, "/"), "?")
	query, err = url.ParseQuery(raw)
	if err != nil || len(query) > 1 || len(query) == 1 && !query.Has("version") {
		return "", nil, fmt.Errorf("secret %q has a query (only ?version=N is known)", secret)
	}
	if p == "" || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "#\\") {
		return "", nil, fmt.Errorf("secret %q is no path (an API path such as \"kv/app\")", secret)
	}
	return p, query, nil
}

// inspect finds what the parser lets pass but execution would refuse.
func inspect(t *template.Template, text string) error {
	for _, defined := range t.Templates() {
		if defined.Tree == nil {
			continue
		}
		if err := walk(defined.Root, false, func(n parse.Node, piped bool) error { return inspectNode(t, text, n, piped) }); err != nil {
			return err
		}
	}
	return nil
}

func inspectNode(t *template.Template, text string, n parse.Node, piped bool) error {
	switch n := n.(type) {
	case *parse.TemplateNode:
		if t.Lookup(n.Name) == nil {
			return at(text, n, fmt.Errorf("template %q not defined", n.Name))
		}
	case *parse.CommandNode:
		name, ok := n.Args[0].(*parse.IdentifierNode)
		if !ok || name.Ident != "secret" {
			return nil
		}
		given := len(n.Args) - 1
		if piped {
			given++
		}
		if given != 1 {
			return at(text, name, fmt.Errorf("secret takes one path, not %d arguments (writes are not supported)", given))
		}
		if literal, ok := n.Args[len(n.Args)-1].(*parse.StringNode); ok {
			if _, _, err := ParsePath(literal.Text); err != nil {
				return at(text, literal, err)
			}
		}
	}
	return nil
}

// at puts a node's place in front of an error.
func at(text string, n parse.Node, err error) error {
	before := text[:n.Position()]
	line := strings.Count(before, "\n") + 1
	column := len(before) - strings.LastIndex(before, "\n")
	return errors.New(place(line, column) + ": " + err.Error())
}

// walk visits a node and all below it; piped says whether a command gets the
// value of another one.
func walk(n parse.Node, piped bool, visit func(n parse.Node, piped bool) error) error {
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
			if err := walk(command, i > 0, visit); err != nil {
				return err
			}
		}
	}
	if err := visit(n, piped); err != nil {
		return err
	}
	for _, child := range below {
		if err := walk(child, false, visit); err != nil {
			return err
		}
	}
	return nil
}
