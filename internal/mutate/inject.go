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
	readers := spec.readers(pod, cfg)

	agent := spec.Agent
	if agent.Lifecycle == config.Native {
		agent.Lifecycle = "" // which means the same
	}
	user := agentUser(pod, readers, spec)
	warnings := setModes(&agent, pod, readers, user)
	warnings = append(warnings, warnOfSignals(&agent, pod, readers, user)...)
	warnings = append(warnings, warnOfMesh(pod, spec, cfg)...)
	resources, warned := agentResources(pod, spec.Resources, cfg.Defaults.Resources)
	warnings = append(warnings, warned...)
	if err := agent.Validate(); err != nil {
		return nil, nil, nil, fmt.Errorf("configuring agent: %w", err)
	}
	container, err := agentContainer(&agent, user, resources, cfg)
	if err != nil {
		return nil, nil, nil, err
	}

	insert(p, "/spec/volumes", &p.pod.Spec.Volumes, len(p.pod.Spec.Volumes), identityVolume(spec.Connection, agent.Vault.Auth, spec.TokenSeconds))
	insert(p, "/spec/volumes", &p.pod.Spec.Volumes, len(p.pod.Spec.Volumes), secretsVolume())
	p.pullSecrets(cfg.ImagePullSecrets)
	at := positionIn(pod.Spec.InitContainers, cfg.MeshProxies, spec.given)
	insert(p, "/spec/initContainers", &p.pod.Spec.InitContainers, at.index, *container)
	p.mount(spec.InitContainers, targets(pod, spec, cfg), spec.MountPath)
	p.annotate(StatusAnnotation, "injected")
	return p.pod, p.ops, warnings, nil
}

// given tells whether an init container gets the files.
func (s *Spec) given(c *corev1.Container) bool { return slices.Contains(s.InitContainers, c.Name) }

// readers are the containers that get the files, init containers first.
func (s *Spec) readers(pod *corev1.Pod, cfg *Config) []*corev1.Container {
	return append(named(pod.Spec.InitContainers, s.InitContainers), named(pod.Spec.Containers, targets(pod, s, cfg))...)
}

// mount shows the published files, and nothing else of the volume, to those of
// the named containers that lack them.
func (p *patcher) mount(inits, apps []string, mountPath string) {
	for _, of := range []struct {
		path       string
		containers []corev1.Container
		names      []string
	}{
		{"/spec/initContainers/", p.pod.Spec.InitContainers, inits},
		{"/spec/containers/", p.pod.Spec.Containers, apps},
	} {
		for i := range of.containers {
			c := &of.containers[i]
			if c.Name == AgentName || !slices.Contains(of.names, c.Name) || secretsMount(c) != nil {
				continue
			}
			insert(p, of.path+strconv.Itoa(i)+"/volumeMounts", &c.VolumeMounts, len(c.VolumeMounts), corev1.VolumeMount{
				Name:      SecretsVolume,
				ReadOnly:  true,
				MountPath: mountPath,
				SubPath:   config.OutName,
			})
		}
	}
}
