// Package mutate decides which pods get an agent, reads what their annotations
// ask for, and says what has to be added to them.
//
//	request ─▶ decide ─▶ parse ─▶ inject ─▶ operations
//
// All but the Handler is a function of its arguments alone: no client, clock,
// environment or log. What is added is added by name and only where it is
// missing, so that a second call on the result changes nothing; whatever the
// pod holds already stays as it is, also what this build does not know of.
package mutate

import (
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/json"
)

// Request is one question about an object: what the API server says of it, and
// the object itself.
type Request struct {
	Group, Resource, SubResource string
	Operation                    string
	// Namespace of the request. A pod that is made by a controller may not
	// name its own.
	Namespace string
	// Pod is the object as far as this build knows its fields; nil where there
	// is none.
	Pod *corev1.Pod
	// invalid is what is wrong with the object if it is a pod.
	invalid error
}

// NewPod is the request to create a pod, given as JSON.
func NewPod(namespace string, object []byte) *Request {
	req := &Request{Resource: "pods", Operation: "CREATE", Namespace: namespace}
	req.Pod, req.invalid = decodePod(object)
	return req
}

// decodePod returns nil for no object and for null.
func decodePod(object []byte) (pod *corev1.Pod, err error) {
	if len(object) == 0 {
		return nil, nil
	}
	// Names in Kubernetes' JSON are case-sensitive, other than in
	// encoding/json: a "Volumes" of the user's is not the pod's volumes.
	if err := json.UnmarshalCaseSensitivePreserveInts(object, &pod); err != nil {
		return nil, typeProblem(err)
	}
	return pod, nil
}

// Outcome is the answer to a Request.
type Outcome struct {
	Decision Decision
	Reason   Reason
	// Ops make the pod what it has to be; empty unless Injected.
	Ops []Op
	// Warnings are for the pod's author, who gets the pod nevertheless.
	Warnings []string
	// Problems are why the pod is Denied, all of them.
	Problems Problems
	// Pod is the pod as it came, nil where it could not be read. Result is the
	// pod after Ops, nil unless Injected.
	Pod, Result *corev1.Pod
}

// Mutate answers a request.
func Mutate(req *Request, cfg *Config) *Outcome {
	if reason := skipRequest(req); reason != "" {
		return &Outcome{Decision: Skipped, Reason: reason}
	}
	refuse := func(problem string) *Outcome {
		return &Outcome{Decision: Denied, Reason: InvalidRequest, Problems: Problems{"decoding pod: " + problem}}
	}
	switch {
	case req.invalid != nil:
		return refuse(req.invalid.Error())
	case req.Pod == nil:
		return refuse("the request has no object")
	}
	out := mutatePod(req.Pod, req.Namespace, cfg)
	out.Pod = req.Pod
	return out
}

func mutatePod(pod *corev1.Pod, namespace string, cfg *Config) *Outcome {
	if reason := skipPod(pod); reason != "" {
		return &Outcome{Decision: Skipped, Reason: reason}
	}
	if tooLarge := checkSize(pod); len(tooLarge) > 0 {
		return &Outcome{Decision: Denied, Reason: InvalidPod, Problems: tooLarge}
	}
	if isInjected(pod) {
		return complete(pod, cfg)
	}
	id := Identity{Namespace: namespace, ServiceAccount: or(pod.Spec.ServiceAccountName, or(pod.Spec.DeprecatedServiceAccount, "default"))}
	spec, invalid := Parse(pod.Annotations, id, cfg)
	impossible := checkPod(pod, spec, cfg)
	switch {
	case len(invalid) > 0:
		return &Outcome{Decision: Denied, Reason: InvalidAnnotations, Problems: append(invalid, impossible...).sorted()}
	case len(impossible) > 0:
		return &Outcome{Decision: Denied, Reason: InvalidPod, Problems: impossible.sorted()}
	}
	result, ops, warnings, err := Inject(pod, spec, cfg)
	if err != nil {
		return &Outcome{Decision: Denied, Reason: InvalidPod, Problems: Problems{err.Error()}}
	}
	return &Outcome{Decision: Injected, Reason: AskedFor, Ops: ops, Warnings: warnings, Result: result}
}
