package mutate

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
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
			checkMountPath(pod, c, mountPath, &problems)
		}
	}
	given := func(c *corev1.Container) bool {
		return secretsMount(c) != nil || slices.Contains(inits, c.Name)
	}
	at, others, wrong := misplaced(pod, cfg, given)
	warnings := warnOfEdits(pod)
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

// warnOfEdits warns of annotations that say something else than the agent was
// made from: nothing comes of them. Only what they state themselves is compared,
// since the rest is the operator's, whose configuration may be another by now.
func warnOfEdits(pod *corev1.Pod) []string {
	var agent config.Agent
	err := json.Unmarshal(configOf(&pod.Spec.InitContainers[agentIndex(pod)]), &agent)
	if err != nil || agent.Version != config.Version {
		return nil // another version's, which nothing can be compared with
	}
	var p Problems
	var s Spec
	s.set(pod.Annotations, &p)
	switch {
	case len(p) > 0:
	case !slices.Equal(published(&s.Agent), published(&agent)):
		p.add(Prefix+"files", "the annotations ask for other files than the agent's")
	case s.role != "" && s.role != agent.Vault.Auth.Role:
		p.add(Prefix+"role", "the agent has %q", agent.Vault.Auth.Role)
	}
	p = p.sorted()
	p = p[:min(len(p), maxTold)]
	for i := range p {
		p[i] += "; the agent is kept as it is (without all that is named latchkey-* in its spec the pod gets a new one)"
	}
	return p
}

// published is which files there are and what is in each, as annotations alone
// decide it.
func published(agent *config.Agent) (files []string) {
	for _, f := range agent.Files {
		files = append(files, fmt.Sprintf("%q %q %q %q %q %q", f.Path, f.Secret, f.Template, f.Format, f.Key, f.Files))
	}
	if t := agent.TokenFile; t != nil {
		files = append(files, fmt.Sprintf("%q %q %t %s", t.Path, t.Format, t.CA, t.WrapTTL))
	}
	return files
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
