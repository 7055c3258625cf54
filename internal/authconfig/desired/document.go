package desired

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readDocument reads one map of JSON or YAML. Its numbers are json.Number, as
// they were written. What can be read in two ways is refused: repeated keys,
// aliases, more than one document.
func readDocument(s string) (map[string]any, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errors.New("is empty (a map of fields as JSON or YAML)")
	}
	// YAML has no tabs where JSON may have them.
	var compact bytes.Buffer
	if json.Compact(&compact, []byte(s)) == nil {
		s = compact.String()
	}
	d := yaml.NewDecoder(strings.NewReader(s))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("is empty (a map of fields as JSON or YAML)")
		}
		return nil, notYAML(err)
	}
	switch err := d.Decode(new(yaml.Node)); {
	case err == nil:
		return nil, errors.New("has more than one YAML document (one)")
	case !errors.Is(err, io.EOF):
		return nil, notYAML(err)
	}
	v, err := plain(doc.Content[0])
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("is %s (a map of fields as JSON or YAML)", typeOf(v))
	}
	return m, nil
}

func notYAML(err error) error {
	why := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	if strings.HasSuffix(why, "did not find expected alphabetic or numeric character") {
		why += `: a value of * is written "*"`
	}
	return fmt.Errorf("is neither JSON nor YAML: %s", why)
}

// plain is a node's value: string, bool, nil, json.Number, []any or
// map[string]any.
func plain(n *yaml.Node) (any, error) {
	switch n.Kind {
	case yaml.AliasNode:
		return nil, fmt.Errorf("line %d: aliases such as %s are not supported (what they stand for, written out)", n.Line, quote("*"+n.Value))
	case yaml.SequenceNode:
		l := make([]any, len(n.Content))
		for i, c := range n.Content {
			var err error
			if l[i], err = plain(c); err != nil {
				return nil, err
			}
		}
		return l, nil
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: a key is no string", k.Line)
			}
			if _, ok := m[k.Value]; ok {
				return nil, fmt.Errorf("line %d: %s stands more than once (each key once)", k.Line, quote(k.Value))
			}
			var err error
			if m[k.Value], err = plain(n.Content[i+1]); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int", "!!float":
		return json.Number(n.Value), nil
	case "!!str", "!!timestamp", "!!merge":
		return n.Value, nil
	}
	return nil, fmt.Errorf("line %d: the YAML tag %s is not supported (none)", n.Line, quote(n.Tag))
}
