package mutate

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Op is one operation of a JSON patch (RFC 6902): "add", and for a container of
// ours "move", which a "test" guards. A patch that is computed as the difference
// of two marshalled pods would delete the fields that this build of k8s.io/api
// does not know.
type Op struct {
	Op    string `json:"op"`
	From  string `json:"from,omitempty"` // of "move"
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"` // of "add" and "test"
}

// patcher changes its own copy of a pod and writes down each change, so that
// copy and operations cannot differ.
type patcher struct {
	pod *corev1.Pod
	ops []Op
}

func (p *patcher) add(path string, value any) {
	p.ops = append(p.ops, Op{Op: "add", Path: path, Value: value})
}

// insert puts item before position i of the list that lies at path. A list
// that is absent or null has no positions and is added whole.
func insert[T any](p *patcher, path string, list *[]T, i int, item T) {
	switch {
	case *list == nil:
		p.add(path, []T{item})
	case i == len(*list):
		p.add(path+"/-", item)
	default:
		p.add(path+"/"+strconv.Itoa(i), item)
	}
	*list = slices.Insert(*list, i, item)
}

// annotate adds an annotation, if the pod has no such annotation yet.
func (p *patcher) annotate(name, value string) {
	const path = "/metadata/annotations"
	if _, ok := p.pod.Annotations[name]; ok {
		return
	}
	if p.pod.Annotations == nil {
		p.pod.Annotations = make(map[string]string)
		p.add(path, map[string]string{name: value})
	} else {
		p.add(path+"/"+pointerEscaper.Replace(name), value)
	}
	p.pod.Annotations[name] = value
}

// pointerEscaper writes a key as a token of a JSON pointer (RFC 6901, section 3).
var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")
