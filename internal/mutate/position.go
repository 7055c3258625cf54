package mutate

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// position is where the agent belongs among the init containers.
type position struct {
	// index is directly behind the last native sidecar of a mesh, since there
	// is no network before it.
	index int
	// last is the index of the first container that gets the files: it waits
	// for them, so that the agent cannot come later.
	last int
}

// positionIn finds the agent's position among init containers without it.
func positionIn(inits []corev1.Container, mesh []string, given func(*corev1.Container) bool) position {
	at := position{last: len(inits)}
	for i := range inits {
		c := &inits[i]
		if isNative(c) && slices.Contains(mesh, c.Name) {
			at.index = i + 1
		}
		if i < at.last && given(c) {
			at.last = i
		}
	}
	return at
}

// possible tells whether no container that gets the files stands before the
// network.
func (at position) possible() bool { return at.index <= at.last }

// conflict words why the position is not possible.
func (at position) conflict(inits []corev1.Container) string {
	if at.last == at.index-1 {
		return fmt.Sprintf("the agent has no network before %q, which therefore cannot wait for its files (other init containers)", inits[at.last].Name)
	}
	return fmt.Sprintf("%q gets the files and stands before %q, without which the agent has no network (behind it)", inits[at.last].Name, inits[at.index-1].Name)
}

func isNative(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// misplaced is the position of the agent in a pod that has one, and whether it
// has to be moved there: another webhook may have put a mesh's sidecar behind
// it, or before it an init container that gets the files.
func misplaced(pod *corev1.Pod, cfg *Config, given func(*corev1.Container) bool) (at position, others []corev1.Container, is bool) {
	now := agentIndex(pod)
	others = slices.Delete(slices.Clone(pod.Spec.InitContainers), now, now+1)
	at = positionIn(others, cfg.MeshProxies, given)
	return at, others, now < at.index || now > at.last
}

// agentIndex is where the agent stands among the init containers, or -1.
func agentIndex(pod *corev1.Pod) int {
	return slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == AgentName })
}

// moveAgent moves the agent's container, and makes sure that it is that one.
func (p *patcher) moveAgent(to int) {
	const list = "/spec/initContainers/"
	from := agentIndex(p.pod)
	at := list + strconv.Itoa(from)
	p.ops = append(p.ops,
		Op{Op: "test", Path: at + "/name", Value: AgentName},
		Op{Op: "move", From: at, Path: list + strconv.Itoa(to)})
	agent := p.pod.Spec.InitContainers[from]
	p.pod.Spec.InitContainers = slices.Insert(slices.Delete(p.pod.Spec.InitContainers, from, from+1), to, agent)
}

// warnOfMesh warns where init containers may wait for what starts only after all
// of them: the mesh's own container. Mesh and Vault decide whether they do.
// Where an init container of the mesh redirects the traffic, the agent is done
// before it; where a CNI plugin does, there is no network before the proxy.
func warnOfMesh(pod *corev1.Pod, spec *Spec, cfg *Config) []string {
	row, what := "", ""
	switch {
	case spec.Agent.Lifecycle == config.Init:
		row, what = "lifecycle", "an agent of lifecycle "+config.Init
	case spec.Agent.Lifecycle != config.Sidecar && len(spec.InitContainers) > 0:
		row, what = "init-containers", fmt.Sprintf("init container %q", spec.InitContainers[0])
	default:
		return nil
	}
	var warnings []string
	for _, c := range pod.Spec.Containers {
		if slices.Contains(cfg.MeshProxies, c.Name) {
			warnings = append(warnings, fmt.Sprintf("%s%s: %s comes before container %q: where the mesh works by a CNI plugin, there is no network until then (the mesh's native sidecar, or Vault's port excluded from the mesh)", Prefix, row, what, c.Name))
		}
	}
	return warnings
}
