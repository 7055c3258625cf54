package mutate

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// agentContainer is the native sidecar. It has no liveness probe: a restart
// mends nothing that the agent does not mend itself. It has no startup probe:
// the postStart hook costs less, and the volume's guard holds the app back
// where the hook has run out of time.
func agentContainer(agent *config.Agent, user runAs, pod *corev1.Pod, cfg *Config) (*corev1.Container, error) {
	vars, err := agent.Env()
	if err != nil {
		return nil, err
	}
	env := make([]corev1.EnvVar, len(vars))
	for i, v := range vars {
		env[i] = corev1.EnvVar{Name: v.Name, Value: v.Value}
	}
	always, yes, no := corev1.ContainerRestartPolicyAlways, true, false
	return &corev1.Container{
		Name:            AgentName,
		Image:           cfg.AgentImage,
		ImagePullPolicy: cfg.ImagePullPolicy,
		RestartPolicy:   &always,
		Env:             env,
		Resources:       agentResources(pod, cfg),
		VolumeMounts: []corev1.VolumeMount{
			// Here the API server's ServiceAccount admission finds a mount
			// already, and adds no token of its own.
			{Name: IdentityVolume, ReadOnly: true, MountPath: path.Dir(config.TokenPath)},
			{Name: SecretsVolume, MountPath: config.VolumeDir},
		},
		Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			// Bounded: while a hook runs the kubelet refuses logs and delays
			// the deletion of the pod.
			Exec: &corev1.ExecAction{Command: []string{"/agent", "wait", "--timeout", "3s"}},
		}},
		ReadinessProbe: &corev1.Probe{
			ProbeHandler:   corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/agent", "ready"}}},
			PeriodSeconds:  5,
			TimeoutSeconds: 2,
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
	}, nil
}

// The least CPU of an agent that may use no more than it asks for: with the
// usual request as its limit it would take minutes to start.
const guaranteedCPU = "100m"

// agentResources are the operator's, but for a pod that is Guaranteed, which it
// has to stay: its limits are its requests there.
func agentResources(pod *corev1.Pod, cfg *Config) corev1.ResourceRequirements {
	r := *cfg.Defaults.Resources.DeepCopy()
	if !guaranteed(pod) {
		return r
	}
	memory := r.Requests[corev1.ResourceMemory].DeepCopy()
	memory.Add(resource.MustParse(volumeSize))
	for name, least := range map[corev1.ResourceName]resource.Quantity{
		corev1.ResourceCPU:    resource.MustParse(guaranteedCPU),
		corev1.ResourceMemory: memory,
	} {
		value := r.Requests[name].DeepCopy()
		if value.Cmp(least) < 0 {
			value = least
		}
		if limit, ok := r.Limits[name]; ok && value.Cmp(limit) < 0 {
			value = limit
		}
		if r.Limits == nil {
			r.Limits = make(corev1.ResourceList)
		}
		r.Requests[name], r.Limits[name] = value, value
	}
	return r
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
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, limited := c.Resources.Limits[name]
			request, requested := c.Resources.Requests[name]
			ok = ok && limited && !limit.IsZero() && (!requested || request.Cmp(limit) == 0)
		}
	})
	return ok
}
