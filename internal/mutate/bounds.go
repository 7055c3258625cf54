package mutate

import (
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
)

// Whoever may ask for a pod chooses what the injector has to read, and the API
// server checks sizes only after admission. These bounds keep the cost of an
// answer near that of its question.
const (
	// maxAnnotations is the most that all names and values of an object's
	// annotations may come to, in bytes. It is the API server's own bound
	// (TotalAnnotationSizeLimitB in k8s.io/apimachinery/pkg/api/validation).
	maxAnnotations = 256 << 10
	// maxContainers is far beyond what a kubelet can run in one pod.
	maxContainers = 500
	// maxPath is how long the path of a file may be, in bytes (CheckPath of
	// internal/config).
	maxPath = 1024
	// maxTold is how many problems or warnings are told one by one.
	maxTold = 50
)

// checkSize reports a pod that is too large to look at.
func checkSize(pod *corev1.Pod) Problems {
	var p Problems
	size := 0
	for name, value := range pod.Annotations {
		size += len(name) + len(value)
	}
	if size > maxAnnotations {
		p.add("metadata.annotations", "%d bytes (at most %d, as for any object)", size, maxAnnotations)
	}
	if n := len(pod.Spec.InitContainers) + len(pod.Spec.Containers); n > maxContainers {
		p.add("spec.containers", "%d with init containers (at most %d)", n, maxContainers)
	}
	return p
}

// visible replaces what a terminal would obey instead of showing it.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// shorten is s, cut to at most n bytes.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
