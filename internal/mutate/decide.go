package mutate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Decision is what becomes of an admission request.
type Decision string

// The decisions. Skipped and Injected requests are allowed.
const (
	Skipped  Decision = "skipped"
	Injected Decision = "injected"
	Denied   Decision = "denied"
)

// Reason says why, as one of a closed set that logs and metrics can rely on.
type Reason string

// The reasons to skip, which are no errors.
const (
	NotAPod         Reason = "not-a-pod"
	NotCreated      Reason = "not-created"
	MirrorPod       Reason = "mirror-pod"
	NoAnnotations   Reason = "no-annotations"
	OptedOut        Reason = "opted-out"
	AlreadyInjected Reason = "already-injected"
)

// The reasons to inject.
const (
	AskedFor      Reason = "asked-for"
	MissingMounts Reason = "missing-mounts"
	Misplaced     Reason = "misplaced"
)

// The reasons to deny.
const (
	InvalidAnnotations Reason = "invalid-annotations"
	InvalidPod         Reason = "invalid-pod"
	InvalidRequest     Reason = "invalid-request"
	TooLarge           Reason = "too-large"
	WrongContentType   Reason = "wrong-content-type"
	InternalError      Reason = "internal-error"
)

// reasons has a sentence for each Reason.
var reasons = map[Reason]string{
	NotAPod:            "it is no pod",
	NotCreated:         "pods are injected only when they are created",
	MirrorPod:          "it mirrors a static pod, which the kubelet runs as it is",
	NoAnnotations:      "it has no " + Prefix + "inject annotation",
	OptedOut:           "it says " + Prefix + "inject: \"false\"",
	AlreadyInjected:    "it has its agent already",
	AskedFor:           "it says " + Prefix + "inject: \"true\"",
	MissingMounts:      "a named container lacks the files",
	Misplaced:          "its agent stands on the wrong side of another init container",
	InvalidAnnotations: "its annotations are wrong",
	InvalidPod:         "the pod cannot be injected",
	InvalidRequest:     "the request cannot be understood",
	TooLarge:           "the request is too large",
	WrongContentType:   "the request is no JSON",
	InternalError:      "the injector has a fault",
}

// Sentence is the reason in words that follow "since".
func (r Reason) Sentence() string { return reasons[r] }

// skipRequest is the reason to leave a request alone that can be told without
// its object, or empty.
func skipRequest(req *Request) Reason {
	switch {
	case req.Group != "" || req.Resource != "pods" || req.SubResource != "":
		return NotAPod
	case req.Operation != "CREATE":
		return NotCreated
	}
	return ""
}

// skipPod is the reason to leave a pod alone, or empty.
func skipPod(pod *corev1.Pod) Reason {
	ours := false
	for name := range pod.Annotations {
		ours = ours || strings.HasPrefix(name, Prefix) && name != StatusAnnotation
	}
	_, mirror := pod.Annotations[mirrorAnnotation]
	switch {
	case !ours:
		return NoAnnotations
	case mirror:
		return MirrorPod
	case pod.Annotations[Prefix+"inject"] == "false":
		return OptedOut
	}
	return ""
}
