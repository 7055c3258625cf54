package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// parseTree reads a document with its comments, its order and its styles.
func parseTree(text, asJSON []byte) (*yaml.Node, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err
	}
	switch {
	case shared(root):
		// An addition to one place would appear in all that share it.
		plain, err := sigsyaml.JSONToYAML(asJSON)
		if err != nil {
			return nil, fmt.Errorf("writing YAML: %w", err)
		}
		return parse(plain)
	case bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		plainStyle(root) // JSON becomes YAML as people write it
	}
	return root, nil
}

func parse(text []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	if len(doc.Content) != 1 {
		return nil, errors.New("reading YAML: no content")
	}
	return &doc, nil
}

// shared tells whether parts of the document stand for other parts.
func shared(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Tag == "!!merge" || slices.ContainsFunc(n.Content, shared)
}

func plainStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainStyle(c)
	}
}

// blockStyle writes all on the way to a place on lines of its own: what is
// added there would otherwise be one endless line of braces.
func blockStyle(n *yaml.Node, path []string) {
	n.Style &^= yaml.FlowStyle
	switch {
	case n.Kind == yaml.DocumentNode:
		blockStyle(n.Content[0], path)
	case len(path) == 0:
	case n.Kind == yaml.MappingNode:
		if i := valueOf(n, path[0]); i < len(n.Content) {
			blockStyle(n.Content[i], path[1:])
		}
	case n.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(path[0]); err == nil && i >= 0 && i < len(n.Content) {
			blockStyle(n.Content[i], path[1:])
		}
	}
}

// valueOf is the index of a key's value in a mapping's content, beyond its end
// where there is no such key.
func valueOf(n *yaml.Node, key string) int {
	i := 0
	for i < len(n.Content) && n.Content[i].Value != key {
		i += 2
	}
	return i + 1
}

// pointer is the tokens of a JSON pointer (RFC 6901).
func pointer(path string) []string {
	tokens := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(tokens[i], "~1", "/"), "~0", "~")
	}
	return tokens
}

// apply does to a tree what the operation does to JSON (RFC 6902).
func (c change) apply(tree *yaml.Node) error {
	switch c.Op.Op {
	case "add":
		item, err := node(c.Value)
		if err != nil {
			return err
		}
		return add(tree, c.path(), item)
	case "test":
		if list, i, err := at(tree, c.path()); err != nil || list.Content[i].Value != c.Value {
			return fmt.Errorf("it is not %v", c.Value)
		}
		return nil
	case "move":
		list, i, err := at(tree, slices.Concat(c.pod, pointer(c.From)))
		if err != nil {
			return err
		}
		item := list.Content[i]
		list.Content = slices.Delete(list.Content, i, i+1)
		return add(tree, c.path(), item)
	}
	return fmt.Errorf("unknown operation %q", c.Op.Op)
}

// at finds what lies at a place, as its index in the content of what holds it.
func at(n *yaml.Node, tokens []string) (parent *yaml.Node, i int, err error) {
	if n.Kind == yaml.DocumentNode {
		return at(n.Content[0], tokens)
	}
	i = len(n.Content)
	switch n.Kind {
	case yaml.MappingNode:
		i = valueOf(n, tokens[0])
	case yaml.SequenceNode:
		if position, err := strconv.Atoi(tokens[0]); err == nil && position >= 0 {
			i = position
		}
	}
	if i >= len(n.Content) {
		return nil, 0, fmt.Errorf("there is no %q", tokens[0])
	}
	if len(tokens) > 1 {
		return at(n.Content[i], tokens[1:])
	}
	return n, i, nil
}

// add does to a tree what the operation "add" of RFC 6902 does to JSON.
func add(n *yaml.Node, tokens []string, item *yaml.Node) error {
	if n.Kind == yaml.DocumentNode {
		return add(n.Content[0], tokens, item)
	}
	token, rest := tokens[0], tokens[1:]
	i := len(n.Content)
	switch n.Kind {
	case yaml.MappingNode:
		i = valueOf(n, token)
	case yaml.SequenceNode:
		if token != "-" {
			var err error
			if i, err = strconv.Atoi(token); err != nil || i < 0 || i > len(n.Content) {
				return fmt.Errorf("no position %q in a list of %d", token, len(n.Content))
			}
		}
	default:
		return fmt.Errorf("%q is below neither a map nor a list", token)
	}
	if len(rest) > 0 {
		if i >= len(n.Content) {
			return fmt.Errorf("there is no %q", token)
		}
		return add(n.Content[i], rest, item)
	}
	switch {
	case n.Kind == yaml.SequenceNode:
		n.Content = slices.Insert(n.Content, i, item)
	case i < len(n.Content):
		n.Content[i] = item
	default:
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: token}, item)
	}
	return nil
}

// node is a value as YAML, in the order of its JSON.
func node(value any) (*yaml.Node, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	doc, err := parse(buf.Bytes())
	if err != nil {
		return nil, err
	}
	plainStyle(doc)
	return doc.Content[0], nil
}

// encodeTree writes a tree in the layout of the text that it comes from.
func encodeTree(n *yaml.Node, text []byte) ([]byte, error) {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if compactLists(text) {
		enc.CompactSeqIndent()
	}
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("writing YAML: %w", err)
	}
	return buf.Bytes(), nil
}

// compactLists tells whether the text has its list items as far left as the
// list's key, which is the commoner way in Kubernetes.
func compactLists(text []byte) bool {
	key := -1 // indentation of the key on the line before
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, " \r\n")
		body := strings.TrimLeft(line, " ")
		indent := len(line) - len(body)
		if key >= 0 && strings.HasPrefix(body, "- ") {
			return indent == key
		}
		key = -1
		if strings.HasSuffix(body, ":") {
			for strings.HasPrefix(body, "- ") {
				body, indent = body[2:], indent+2
			}
			key = indent
		}
	}
	return true
}
