// Package manifest injects manifests offline: the files that people keep, with
// their comments, their order and the fields that this build does not know.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

// Document is one YAML or JSON document after injection.
type Document struct {
	// Text is the document as it came, or as it becomes if Changed.
	Text    []byte
	Changed bool
	// Before and After are the document in the same layout, for comparing.
	Before, After []byte
	// Objects are what the document holds: one, or the items of a List.
	Objects []Object
}

// Object is one object and what became of it.
type Object struct {
	// Name is its kind and name, such as "Deployment/web".
	Name string
	*mutate.Outcome
	// Hint is on what may have been meant, or empty.
	Hint string
}

// Inject injects every pod and pod template in a stream of documents.
// Namespace, where it is not empty, goes before what the objects say. The
// error is about text that is no YAML or no object; what is wrong with a pod
// is in its Outcome.
func Inject(stream []byte, namespace string, cfg *mutate.Config) ([]Document, error) {
	var docs []Document
	for i, text := range split(stream) {
		doc, err := inject(text, namespace, cfg)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		docs = append(docs, *doc)
	}
	return docs, nil
}

// split cuts a stream at its "---" lines, and drops documents without content.
func split(stream []byte) [][]byte {
	var docs [][]byte
	var doc []byte
	flush := func() {
		for line := range bytes.Lines(doc) {
			if l := bytes.TrimSpace(line); len(l) > 0 && l[0] != '#' {
				docs = append(docs, doc)
				break
			}
		}
		doc = nil
	}
	for line := range bytes.Lines(stream) {
		if l := bytes.TrimRight(line, " \t\r\n"); bytes.Equal(l, []byte("---")) || bytes.HasPrefix(l, []byte("--- ")) {
			flush()
			continue
		}
		doc = append(doc, line...)
	}
	flush()
	return docs
}

func inject(text []byte, namespace string, cfg *mutate.Config) (*Document, error) {
	// This parser tells a repeated key from one that overrides a merged one.
	var ignored any
	parser := yaml.NewDecoder(bytes.NewReader(text))
	if err := parser.Decode(&ignored); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	if err := parser.Decode(&ignored); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading YAML: there is more behind its end (a line with --- between documents)")
	}
	// What counts is what kubectl would send.
	asJSON, err := sigsyaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	var object any
	if err := dec.Decode(&object); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	root, ok := object.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("reading YAML: it is no object (apiVersion, kind, …)")
	}
	doc := &Document{Text: text}
	var additions []addition
	for _, p := range find(root, nil) {
		o, err := p.inject(namespace, cfg)
		if err != nil {
			return nil, err
		}
		doc.Objects = append(doc.Objects, o)
		for _, op := range o.Ops {
			additions = append(additions, addition{slices.Concat(p.path, pointer(op.Path)), op.Value})
		}
	}
	if len(additions) > 0 {
		if err := doc.change(asJSON, additions); err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// addition is an operation on a document.
type addition struct {
	path  []string
	value any
}

func (d *Document) change(asJSON []byte, additions []addition) error {
	tree, err := parseTree(d.Text, asJSON)
	if err != nil {
		return err
	}
	for _, a := range additions {
		blockStyle(tree, a.path)
	}
	if d.Before, err = encodeTree(tree, d.Text); err != nil {
		return err
	}
	for _, a := range additions {
		if err := add(tree, a.path, a.value); err != nil {
			return fmt.Errorf("adding /%s: %w", strings.Join(a.path, "/"), err)
		}
	}
	if d.After, err = encodeTree(tree, d.Text); err != nil {
		return err
	}
	d.Text, d.Changed = d.After, true
	return nil
}

// place is where a pod, or what would be one, lies in a document.
type place struct {
	object map[string]any
	path   []string       // of the pod below the document
	pod    map[string]any // nil where the object makes no pods
}

// podPaths says where the objects that make pods have the pod.
var podPaths = map[string][]string{
	"Pod":                   {},
	"Deployment":            {"spec", "template"},
	"StatefulSet":           {"spec", "template"},
	"DaemonSet":             {"spec", "template"},
	"ReplicaSet":            {"spec", "template"},
	"ReplicationController": {"spec", "template"},
	"Job":                   {"spec", "template"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template"},
}

// find lists the objects of a document, those of Lists one by one.
func find(object map[string]any, at []string) []place {
	kind, _ := object["kind"].(string)
	if items, ok := object["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		var places []place
		for i, item := range items {
			if o, ok := item.(map[string]any); ok {
				path := slices.Concat(at, []string{"items", strconv.Itoa(i)})
				places = append(places, find(o, path)...)
			}
		}
		return places
	}
	below, ok := podPaths[kind]
	if !ok {
		return []place{{object: object}}
	}
	pod := object
	for _, name := range below {
		pod, _ = pod[name].(map[string]any)
	}
	return []place{{object: object, path: slices.Concat(at, below), pod: pod}}
}

func (p place) inject(namespace string, cfg *mutate.Config) (Object, error) {
	o := Object{Name: nameOf(p.object)}
	if p.pod == nil {
		o.Outcome = &mutate.Outcome{Decision: mutate.Skipped, Reason: mutate.NotAPod}
		return o, nil
	}
	raw, err := json.Marshal(p.pod)
	if err != nil {
		return o, fmt.Errorf("%s: encoding pod: %w", o.Name, err)
	}
	for _, ns := range []string{stringAt(p.object, "metadata", "namespace"), stringAt(p.pod, "metadata", "namespace"), "default"} {
		if namespace == "" {
			namespace = ns
		}
	}
	o.Outcome = mutate.Mutate(mutate.NewPod(namespace, raw), cfg)
	if o.Reason == mutate.NoAnnotations {
		notes, _ := mapAt(p.object, "metadata")["annotations"].(map[string]any)
		for name := range notes {
			if strings.HasPrefix(name, mutate.Prefix) && name != mutate.StatusAnnotation {
				o.Hint = "its annotations lie on the object itself; they belong on the pod, below " + strings.Join(podPaths[kindOf(p.object)], ".") + ".metadata.annotations"
			}
		}
	}
	return o, nil
}

func kindOf(object map[string]any) string {
	kind, _ := object["kind"].(string)
	return kind
}

// nameOf is an object's kind and name, as kubectl has them.
func nameOf(object map[string]any) string {
	kind, name := kindOf(object), stringAt(object, "metadata", "name")
	if kind == "" {
		kind = "object without kind"
	}
	if name == "" {
		name = stringAt(object, "metadata", "generateName")
	}
	if name == "" {
		return kind
	}
	return kind + "/" + name
}

func mapAt(object map[string]any, name string) map[string]any {
	m, _ := object[name].(map[string]any)
	return m
}

func stringAt(object map[string]any, names ...string) string {
	for _, name := range names[:len(names)-1] {
		object = mapAt(object, name)
	}
	s, _ := object[names[len(names)-1]].(string)
	return s
}
