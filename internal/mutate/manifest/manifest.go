// Package manifest injects manifests offline: the files that people keep, with
// their comments, their order and the fields that this build does not know.
package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	// What counts is what kubectl would send; the nodes are only for printing.
	asJSON, err := sigsyaml.YAMLToJSONStrict(text)
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
	var tree *yaml.Node // made when there is something to change
	for _, p := range find(root, nil) {
		o, err := p.inject(namespace, cfg)
		if err != nil {
			return nil, err
		}
		doc.Objects = append(doc.Objects, o)
		if len(o.Ops) == 0 {
			continue
		}
		if tree == nil {
			if tree, err = parseTree(text, asJSON); err != nil {
				return nil, err
			}
			if doc.Before, err = encodeTree(tree, text); err != nil {
				return nil, err
			}
		}
		for _, op := range o.Ops {
			if err := add(tree, append(p.path, pointer(op.Path)...), op.Value); err != nil {
				return nil, fmt.Errorf("%s: adding %s: %w", o.Name, op.Path, err)
			}
		}
	}
	if tree != nil {
		doc.Changed = true
		if doc.After, err = encodeTree(tree, text); err != nil {
			return nil, err
		}
		doc.Text = doc.After
	}
	return doc, nil
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
				path := append(append([]string(nil), at...), "items", strconv.Itoa(i))
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
	return []place{{object: object, path: append(append([]string(nil), at...), below...), pod: pod}}
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
