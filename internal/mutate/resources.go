package mutate

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// statable are the resources that annotations can state.
var statable = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// leastOf is the least that annotations can state of a resource: what the API
// server rounds up to, and what memory in any other unit than bytes is not.
var leastOf = map[corev1.ResourceName]string{corev1.ResourceCPU: "1m", corev1.ResourceMemory: "1Mi"}

func requests(r *corev1.ResourceRequirements) *corev1.ResourceList { return &r.Requests }

func limits(r *corev1.ResourceRequirements) *corev1.ResourceList { return &r.Limits }

// withDefaults are the stated resources, and the default ones beside them.
func withDefaults(stated, defaults corev1.ResourceRequirements) corev1.ResourceRequirements {
	r := *defaults.DeepCopy()
	for _, list := range []func(*corev1.ResourceRequirements) *corev1.ResourceList{requests, limits} {
		for name, value := range *list(&stated) {
			if *list(&r) == nil {
				*list(&r) = make(corev1.ResourceList)
			}
			(*list(&r))[name] = value.DeepCopy()
		}
	}
	return r
}

// checkResources reports stated resources that do not fit together or the
// operator's.
func checkResources(stated, defaults corev1.ResourceRequirements, p *Problems) {
	r := withDefaults(stated, defaults)
	checkLimits(&r, func(name corev1.ResourceName, err error) {
		limit := r.Limits[name]
		if _, ok := stated.Limits[name]; ok {
			p.add(Prefix+"limits-"+string(name), "%v", err)
		} else if request, ok := stated.Requests[name]; ok {
			p.add(Prefix+"requests-"+string(name), "%s is above the operator's limit (at most %s; or another %slimits-%s)", &request, &limit, Prefix, name)
		}
	})
}

// The least CPU of an agent that may use no more than it asks for: with the
// usual request as its limit it would take minutes to start.
const guaranteedCPU = "100m"

// agentResources are the stated ones and the operator's, but for a pod that is
// Guaranteed, which it has to stay: its limits are its requests there. The
// warnings say where the stated ones cannot be had with that.
func agentResources(pod *corev1.Pod, stated, defaults corev1.ResourceRequirements) (corev1.ResourceRequirements, []string) {
	r := withDefaults(stated, defaults)
	if pod.Spec.Resources != nil {
		leaveToPod(pod.Spec.Resources, stated, &r)
	}
	if !guaranteed(pod) {
		return r, nil
	}
	var warnings []string
	for _, name := range statable {
		value, warning := bothOf(name, stated, r)
		if warning != "" {
			warnings = append(warnings, warning)
		}
		if value == nil {
			continue
		}
		if r.Limits == nil {
			r.Limits = make(corev1.ResourceList)
		}
		r.Requests[name], r.Limits[name] = *value, *value
	}
	return r, warnings
}

// leaveToPod takes out the defaults of those resources that are stated for the
// pod as a whole, from which the agent then takes its share: the API server
// refuses requests of containers that come to more than the pod's.
func leaveToPod(whole *corev1.ResourceRequirements, stated corev1.ResourceRequirements, r *corev1.ResourceRequirements) {
	for _, name := range statable {
		_, requested := whole.Requests[name]
		_, limited := whole.Limits[name]
		if !requested && !limited {
			continue
		}
		_, requestStated := stated.Requests[name]
		_, limitStated := stated.Limits[name]
		if !limitStated {
			delete(r.Limits, name)
		}
		if !requestStated && !limitStated { // a limit alone becomes the request too
			delete(r.Requests, name)
		}
	}
}

// bothOf is the request and the limit of an agent in a Guaranteed pod, nil where
// its author has stated two different ones.
func bothOf(name corev1.ResourceName, stated, r corev1.ResourceRequirements) (*resource.Quantity, string) {
	request, limit := r.Requests[name], r.Limits[name]
	_, requested := stated.Requests[name]
	_, limited := stated.Limits[name]
	switch {
	case requested && limited && request.Cmp(limit) != 0:
		return nil, fmt.Sprintf("%slimits-%s: %s is not %srequests-%s, so that the pod is no longer of the class Guaranteed (the same value for both)", Prefix, name, &limit, Prefix, name)
	case limited:
		return &limit, ""
	}
	least := resource.MustParse(guaranteedCPU)
	switch {
	case requested && name == corev1.ResourceMemory:
		least = resource.MustParse(requestMemory)
		least.Add(resource.MustParse(volumeSize))
		if request.Cmp(least) < 0 {
			return &least, fmt.Sprintf("%srequests-memory: %s becomes %s: in a pod of the class Guaranteed it is the limit too, which covers the volume of %s (at least %s)", Prefix, &request, &least, volumeSize, &least)
		}
		return &request, ""
	case requested:
		return &request, ""
	case name == corev1.ResourceMemory:
		least = request.DeepCopy()
		least.Add(resource.MustParse(volumeSize))
	}
	for _, atLeast := range []resource.Quantity{least, limit} {
		if request.Cmp(atLeast) < 0 {
			request = atLeast
		}
	}
	return &request, ""
}

// guaranteed tells whether the pod is of the Guaranteed class as it stands: CPU
// and memory of every container have a limit, and no lower request
// (k8s.io/component-helpers/.../qos states the rule).
func guaranteed(pod *corev1.Pod) bool {
	if pod.Spec.Resources != nil {
		return false // what the pod as a whole may use decides, and stays
	}
	ok := len(pod.Spec.Containers) > 0
	eachContainer(pod, func(c *corev1.Container) {
		for _, name := range statable {
			limit, limited := c.Resources.Limits[name]
			request, requested := c.Resources.Requests[name]
			ok = ok && limited && !limit.IsZero() && (!requested || request.Cmp(limit) == 0)
		}
	})
	return ok
}
