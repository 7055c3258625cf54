package mutate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// complete gives the files to named containers that came after the agent, and
// moves the agent where another webhook has put something on the wrong side of
// it. An agent that is there is kept as it is, whatever version and operator's
// configuration made it: pods outlive both, and are re-created from what they
// became.
func complete(pod *corev1.Pod, cfg *Config) *Outcome {
	var problems Problems
	checkForeignMounts(pod, &problems)
	apps := namesIn(pod, "containers", &problems)
	inits := namesIn(pod, "init-containers", &problems)
	mountPath := existingMountPath(pod)
	if mountPath == "" {
		apps, inits = nil, nil // nobody knows where
	}
	for _, c := range append(named(pod.Spec.InitContainers, inits), named(pod.Spec.Containers, apps)...) {
		if c.Name != AgentName && secretsMount(c) == nil {
			checkMountPath(c, mountPath, &problems)
		}
	}
	given := func(c *corev1.Container) bool {
		return secretsMount(c) != nil || slices.Contains(inits, c.Name)
	}
	at, others, wrong := misplaced(pod, cfg, given)
	var warnings []string
	if !at.possible() {
		if secretsMount(&others[at.last]) == nil {
			problems.add(Prefix+"init-containers", "%s", at.conflict(others))
		} else {
			warnings = append(warnings, Prefix+"init-containers: "+at.conflict(others))
		}
	}
	if len(problems) > 0 {
		return &Outcome{Decision: Denied, Reason: InvalidPod, Problems: problems.sorted()}
	}

	p := &patcher{pod: pod.DeepCopy()}
	reason := MissingMounts
	if wrong && at.possible() {
		p.moveAgent(at.index)
		reason = Misplaced
	}
	p.mount(inits, apps, mountPath)
	if len(p.ops) == 0 {
		return &Outcome{Decision: Skipped, Reason: AlreadyInjected, Warnings: warnings}
	}
	return &Outcome{Decision: Injected, Reason: reason, Ops: p.ops, Warnings: warnings, Result: p.pod}
}

// namesIn are the names in an annotation of a pod that has its agent.
func namesIn(pod *corev1.Pod, row string, p *Problems) []string {
	v, ok := pod.Annotations[Prefix+row]
	if !ok {
		return nil
	}
	names, errs := parseNames(v)
	for _, err := range errs {
		p.add(Prefix+row, "%v", err)
	}
	return names
}
