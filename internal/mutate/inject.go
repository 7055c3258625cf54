package mutate

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Inject adds what spec asks for to a copy of the pod, and returns it with the
// operations that turn the pod into it and with warnings for the pod's author.
// The pod has passed checkPod.
func Inject(pod *corev1.Pod, spec *Spec, cfg *Config) (*corev1.Pod, []Op, []string, error) {
	p := &patcher{pod: pod.DeepCopy()}
	names := targets(pod, spec, cfg)
	readers := named(pod, names)

	agent := spec.Agent
	user := agentUser(pod, readers)
	agent.Files = slices.Clone(agent.Files)
	warnings := setModes(agent.Files, pod, readers, user)
	if err := agent.Validate(); err != nil {
		return nil, nil, nil, fmt.Errorf("configuring agent: %w", err)
	}
	container, err := agentContainer(&agent, user, pod, cfg)
	if err != nil {
		return nil, nil, nil, err
	}

	insert(p, "/spec/volumes", &p.pod.Spec.Volumes, len(p.pod.Spec.Volumes), identityVolume(cfg.Connections[spec.connection], agent.Vault.Auth, tokenSeconds))
	insert(p, "/spec/volumes", &p.pod.Spec.Volumes, len(p.pod.Spec.Volumes), secretsVolume())
	insert(p, "/spec/initContainers", &p.pod.Spec.InitContainers, agentPosition(pod, cfg), *container)
	p.mount(names, spec.MountPath)
	p.annotate(StatusAnnotation, "injected")
	return p.pod, p.ops, warnings, nil
}

// agentPosition is right behind the mesh's native sidecars, since there is no
// network before them, and otherwise before everything else.
func agentPosition(pod *corev1.Pod, cfg *Config) int {
	position := 0
	for i, c := range pod.Spec.InitContainers {
		native := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if native && slices.Contains(cfg.MeshProxies, c.Name) {
			position = i + 1
		}
	}
	return position
}

// mount shows the published files, and nothing else of the volume, to those of
// the named containers that lack them.
func (p *patcher) mount(names []string, mountPath string) {
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		if !slices.Contains(names, c.Name) || secretsMount(c) != nil {
			continue
		}
		path := "/spec/containers/" + strconv.Itoa(i) + "/volumeMounts"
		insert(p, path, &c.VolumeMounts, len(c.VolumeMounts), corev1.VolumeMount{
			Name:      SecretsVolume,
			ReadOnly:  true,
			MountPath: mountPath,
			SubPath:   config.OutName,
		})
	}
}
