// Package manifest injects manifests offline: the files that people keep, with
// their comments, their order and the fields that this build does not know.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
// error is about all text that is no YAML or no object, beside which the other
// documents are returned; what is wrong with a pod is in its Outcome.
func Inject(stream []byte, namespace string, cfg *mutate.Config) ([]Document, error) {
	var docs []Document
	var errs []error
	for i, text := range split(stream) {
		doc, err := inject(text, namespace, cfg)
		if err != nil {
			errs = append(errs, fmt.Errorf("document %d: %w", i+1, err))
			continue
		}
		docs = append(docs, *doc)
	}
	return docs, errors.Join(errs...)
}

// split cuts a stream at its "---" lines. Comments that stand alone between two
// of them go to the document behind, or at the end to the one before.
func split(stream []byte) [][]byte {
	var docs [][]byte
	var doc []byte
	content := false
	flush := func() {
		if content {
			docs = append(docs, doc)
			doc, content = nil, false
		}
	}
	for line := range bytes.Lines(stream) {
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(rest) == 0 || bytes.ContainsAny(rest[:1], " \t\r\n")) {
			flush()
			line = bytes.TrimLeft(rest, " \t\r\n") // what stands beside it belongs to what follows
		}
		doc = append(doc, line...)
		l := bytes.TrimSpace(line)
		content = content || len(l) > 0 && l[0] != '#'
	}
	flush()
	if len(docs) > 0 && len(bytes.TrimSpace(doc)) > 0 {
		last := &docs[len(docs)-1]
		*last = append(slices.Clip(*last), doc...)
	}
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
	var changes []change
	for _, p := range find(root, nil) {
		o, err := p.inject(namespace, cfg)
		if err != nil {
			return nil, err
		}
		doc.Objects = append(doc.Objects, o)
		for _, op := range o.Ops {
			changes = append(changes, change{op, p.path})
		}
	}
	if len(changes) > 0 {
		if err := doc.change(asJSON, changes); err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// change is an operation on a pod that lies somewhere in a document.
type change struct {
	mutate.Op
	pod []string
}

func (c change) path() []string { return slices.Concat(c.pod, pointer(c.Path)) }

func (d *Document) change(asJSON []byte, changes []change) error {
	tree, err := parseTree(d.Text, asJSON)
	if err != nil {
		return err
	}
	for _, c := range changes {
		blockStyle(tree, c.path())
	}
	if d.Before, err = encodeTree(tree, d.Text); err != nil {
		return err
	}
	for _, c := range changes {
		if err := c.apply(tree); err != nil {
			return fmt.Errorf("changing /%s: %w", strings.Join(c.path(), "/"), err)
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
	object  map[string]any
	path    []string       // of the pod below the document
	pod     map[string]any // nil where the object makes no pods
	problem string         // why there is no pod to be found where there should be one
}

// workload is a kind of object that makes pods, or is one.
type workload struct {
	group string   // of its API
	pod   []string // where the pod lies
}

var workloads = map[string]workload{
	"Pod":                   {"", nil},
	"ReplicationController": {"", []string{"spec", "template"}},
	"Deployment":            {"apps", []string{"spec", "template"}},
	"StatefulSet":           {"apps", []string{"spec", "template"}},
	"DaemonSet":             {"apps", []string{"spec", "template"}},
	"ReplicaSet":            {"apps", []string{"spec", "template"}},
	"Job":                   {"batch", []string{"spec", "template"}},
	"CronJob":               {"batch", []string{"spec", "jobTemplate", "spec", "template"}},
}

// find lists the objects of a document, those of Lists one by one.
func find(object map[string]any, at []string) []place {
	kind, _ := object["kind"].(string)
	if items, ok := object["items"].([]any); ok && isList(kind, items) {
		var places []place
		for i, item := range items {
			o, ok := item.(map[string]any)
			if !ok {
				places = append(places, place{object: object, problem: fmt.Sprintf("items[%d]: is no object (apiVersion, kind, …)", i)})
				continue
			}
			places = append(places, find(o, slices.Concat(at, []string{"items", strconv.Itoa(i)}))...)
		}
		return places
	}
	w, ok := workloads[kind]
	if version, _ := object["apiVersion"].(string); !ok || version != "" && group(version) != w.group {
		return []place{{object: object}}
	}
	pod := object
	for i, name := range w.pod {
		below, ok := pod[name].(map[string]any)
		if !ok {
			return []place{{object: object, problem: noPod(w.pod[:i+1], pod[name])}}
		}
		pod = below
	}
	return []place{{object: object, path: slices.Concat(at, w.pod), pod: pod}}
}

// isList tells whether an object stands for its items. A kind of another's, such
// as an IPAllowList, may be called so and hold anything.
func isList(kind string, items []any) bool {
	return kind == "List" || strings.HasSuffix(kind, "List") && !slices.ContainsFunc(items, func(item any) bool {
		_, ok := item.(map[string]any)
		return !ok
	})
}

// group is that of an API version such as "apps/v1".
func group(version string) string {
	group, _, ok := strings.Cut(version, "/")
	if !ok {
		return ""
	}
	return group
}

// noPod says what is there in place of the map that holds the pod template.
func noPod(path []string, value any) string {
	is := "is no map"
	if value == nil {
		is = "missing"
	}
	return fmt.Sprintf("%s: %s (the template of its pods, with metadata and spec)", strings.Join(path, "."), is)
}

func (p place) inject(namespace string, cfg *mutate.Config) (Object, error) {
	o := Object{Name: nameOf(p.object)}
	if p.problem != "" {
		o.Outcome = &mutate.Outcome{Decision: mutate.Denied, Reason: mutate.InvalidRequest, Problems: mutate.Problems{p.problem}}
		return o, nil
	}
	if p.pod == nil {
		o.Outcome = &mutate.Outcome{Decision: mutate.Skipped, Reason: mutate.NotAPod}
		if annotated(p.object) {
			o.Hint = "render finds no pods in a " + kindOf(p.object) + "; those that come of it are injected when they are created"
		}
		return o, nil
	}
	if problems := checkStrings(p.pod); len(problems) > 0 {
		o.Outcome = &mutate.Outcome{Decision: mutate.Denied, Reason: mutate.InvalidRequest, Problems: problems}
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
		if annotated(mapAt(p.object, "metadata")) {
			o.Hint = "its annotations lie on the object itself; they belong on the pod, below " + strings.Join(workloads[kindOf(p.object)].pod, ".") + ".metadata.annotations"
		}
	}
	return o, nil
}

// annotated tells whether annotations of ours lie anywhere in a value.
func annotated(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		for name := range mapAt(v, "annotations") {
			if strings.HasPrefix(name, mutate.Prefix) && name != mutate.StatusAnnotation {
				return true
			}
		}
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), annotated)
	case []any:
		return slices.ContainsFunc(v, annotated)
	}
	return false
}

// checkStrings reports annotations that are no strings, which are nearly always
// strings that nobody has quoted.
func checkStrings(pod map[string]any) (problems mutate.Problems) {
	notes := mapAt(mapAt(pod, "metadata"), "annotations")
	for _, name := range slices.Sorted(maps.Keys(notes)) {
		switch value := notes[name].(type) {
		case bool, json.Number:
			problems = append(problems, fmt.Sprintf("%s: %v is no string (quote it: \"%v\")", name, value, value))
		case map[string]any, []any:
			problems = append(problems, fmt.Sprintf("%s: is a map or a list (a string: behind %q, and further in on the lines below)", name, name+": |"))
		}
	}
	return problems
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
