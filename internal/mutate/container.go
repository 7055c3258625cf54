package mutate

import (
	"path"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// agentContainer is the agent's container, a native sidecar unless its work is
// done once. It has no liveness probe: a restart mends nothing that the agent
// does not mend itself. The postStart hook costs less than a startup probe,
// and the volume's guard holds the app back where the hook has run out of time.
func agentContainer(agent *config.Agent, user runAs, resources corev1.ResourceRequirements, cfg *Config) (*corev1.Container, error) {
	vars, err := agent.Env()
	if err != nil {
		return nil, err
	}
	env := make([]corev1.EnvVar, len(vars))
	for i, v := range vars {
		env[i] = corev1.EnvVar{Name: v.Name, Value: v.Value}
	}
	yes, no := true, false
	c := &corev1.Container{
		Name:            AgentName,
		Image:           cfg.AgentImage,
		ImagePullPolicy: cfg.ImagePullPolicy,
		Env:             env,
		Resources:       resources,
		VolumeMounts: []corev1.VolumeMount{
			// Here the API server's ServiceAccount admission finds a mount
			// already, and adds no token of its own.
			{Name: IdentityVolume, ReadOnly: true, MountPath: path.Dir(config.TokenPath)},
			{Name: SecretsVolume, MountPath: config.VolumeDir},
		},
		TerminationMessagePath:   config.TerminationLog,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			RunAsUser:                user.statedUID,
			RunAsGroup:               user.statedGID,
			RunAsNonRoot:             &yes,
			ReadOnlyRootFilesystem:   &yes,
			AllowPrivilegeEscalation: &no,
			Privileged:               &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if agent.Lifecycle == config.Init {
		c.Args = []string{"--once"}
		return c, nil
	}
	if port := portOf(agent.Serve); port != 0 {
		// What discovers pods for Prometheus finds only ports that are stated.
		c.Ports = []corev1.ContainerPort{{Name: AgentName, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	}
	always := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	// Bounded: while a hook runs the kubelet refuses logs and delays the
	// deletion of the pod.
	hook := []string{"/agent", "wait", "--timeout", "3s"}
	if agent.Lifecycle == config.Sidecar {
		// The app is not held back, but the kubelet still has to find what it
		// mounts: where there is nothing it makes a directory of root's.
		hook = []string{"/agent", "wait", "--open"}
	}
	c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: hook}}}
	c.StartupProbe = startupProbe(agent, cfg)
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/agent", "ready"}}},
		PeriodSeconds:  5,
		TimeoutSeconds: 2,
	}
	return c, nil
}
