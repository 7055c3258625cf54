package mutate

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// The names of what the injector adds. Nothing else may bear them.
const (
	AgentName      = "latchkey-agent"
	IdentityVolume = "latchkey-identity"
	SecretsVolume  = "latchkey-secrets"
)

// checkPod reports what in the pod itself stands in the way of a first
// injection.
func checkPod(pod *corev1.Pod, spec *Spec, cfg *Config) Problems {
	var p Problems
	switch {
	case pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows:
		p.add("spec.os.name", "\"windows\" (linux: there is no agent for Windows)")
	case pod.Spec.NodeSelector[corev1.LabelOSStable] == "windows":
		p.add("spec.nodeSelector", "%s: windows (linux: there is no agent for Windows)", corev1.LabelOSStable)
	}
	if class := pod.Spec.RuntimeClassName; class != nil && matches(cfg.RuntimeClassesWithoutSubPath, *class) {
		p.add("spec.runtimeClassName", "%q cannot hold the app back until its files are there (a runtime with subPath mounts)", *class)
	}
	checkNames(pod, &p)
	apps, inits := containerNames(pod.Spec.Containers), containerNames(pod.Spec.InitContainers)
	checkKnown(Prefix+"containers", spec.Containers, apps, Prefix+"init-containers", inits, &p)
	checkKnown(Prefix+"init-containers", spec.InitContainers, inits, Prefix+"containers", apps, &p)
	if spec.Containers == nil && len(appContainers(pod, cfg)) == 0 {
		p.add("spec.containers", "there is none to give the files to (at least one that is no mesh proxy)")
	}
	if at := positionIn(pod.Spec.InitContainers, cfg.MeshProxies, spec.given); !at.possible() {
		p.add(Prefix+"init-containers", "%s", at.conflict(pod.Spec.InitContainers))
	}
	if spec.MountPath != "" {
		for _, c := range spec.readers(pod, cfg) {
			checkMountPath(pod, c, spec.MountPath, &p)
		}
	}
	checkSignals(pod, spec, &p)
	checkPorts(pod, spec, &p)
	return p
}

// checkKnown reports names that no container has, and those that belong into
// the other row.
func checkKnown(row string, names, known []string, otherRow string, others []string, p *Problems) {
	for _, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		if slices.Contains(others, name) {
			p.add(row, "%q belongs elsewhere (%s)", name, otherRow)
			continue
		}
		known := known[:min(len(known), maxTold)]
		p.add(row, "%q is unknown (%s)", name, or(suggest.DidYouMean(name, known), or(strings.Join(known, ", "), "the pod has none")))
	}
}

// checkSignals reports signals that would reach no other container, or
// processes of other pods.
func checkSignals(pod *corev1.Pod, spec *Spec, p *Problems) {
	shared := pod.Spec.ShareProcessNamespace
	if shared != nil && *shared {
		return
	}
	for i, n := range spec.Agent.Notify {
		if n.Signal != nil && i < maxTold {
			p.add(Prefix+"notify", "entry %d: a signal cannot leave the agent's container (spec.shareProcessNamespace: true; or http)", i+1)
		}
	}
}

// checkNames reports whatever bears a name of ours already, and mounts of our
// volumes: they would become valid by injection and show the agent's token.
func checkNames(pod *corev1.Pod, p *Problems) {
	const reserved = "the name is reserved for what is injected: choose another"
	for _, v := range pod.Spec.Volumes {
		if v.Name == IdentityVolume || v.Name == SecretsVolume {
			p.add("volume \""+v.Name+"\"", "not made by the injector (%s)", reserved)
		}
	}
	eachContainer(pod, func(c *corev1.Container) {
		if c.Name == AgentName {
			p.add("container \""+c.Name+"\"", "not made by the injector (%s)", reserved)
		}
		for _, m := range c.VolumeMounts {
			if m.Name == IdentityVolume || m.Name == SecretsVolume {
				p.add("container \""+c.Name+"\"", "mounts volume %q (%s)", m.Name, reserved)
			}
		}
	})
}

// checkForeignMounts reports mounts, in a pod that has its agent, that show
// more than the published files.
func checkForeignMounts(pod *corev1.Pod, p *Problems) {
	eachContainer(pod, func(c *corev1.Container) {
		if c.Name == AgentName {
			return
		}
		for _, m := range c.VolumeMounts {
			if m.Name == IdentityVolume || m.Name == SecretsVolume && !publishedOnly(&m) {
				p.add("container \""+c.Name+"\"", "mounts volume %q, which holds the agent's token (only subPath %q of %q, read-only)", m.Name, config.OutName, SecretsVolume)
			}
		}
	})
}

func publishedOnly(m *corev1.VolumeMount) bool {
	return m.ReadOnly && m.SubPath == config.OutName && m.SubPathExpr == ""
}

// checkMountPath reports what of a container's already lies at or below the
// mount path, where it would hide files or need a directory in a read-only
// place; and a read-only mount above it, in which the runtime cannot make the
// directory to mount at.
func checkMountPath(pod *corev1.Pod, c *corev1.Container, mountPath string, p *Problems) {
	place := "container \"" + c.Name + "\""
	taken := func(at, kind, name string) {
		if at = path.Clean(at); at == mountPath || strings.HasPrefix(at, mountPath+"/") {
			p.add(place, "%s %q is mounted at %q already (another %s)", kind, name, at, Prefix+"mount-path")
		}
	}
	var above *corev1.VolumeMount // the nearest one
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if m.Name == SecretsVolume {
			continue
		}
		taken(m.MountPath, "volume", m.Name)
		if strings.HasPrefix(mountPath, path.Clean(m.MountPath)+"/") && (above == nil || len(path.Clean(m.MountPath)) > len(path.Clean(above.MountPath))) {
			above = m
		}
	}
	if above != nil && readOnly(pod, above) {
		p.add(place, "volume %q is mounted read-only at %q, where %q cannot be made (another %s)", above.Name, path.Clean(above.MountPath), mountPath, Prefix+"mount-path")
	}
	for _, d := range c.VolumeDevices {
		taken(d.DevicePath, "device", d.Name)
	}
}

// readOnly tells whether nothing can be made in a mount. Those of some kinds of
// volume are read-only whatever they state.
func readOnly(pod *corev1.Pod, m *corev1.VolumeMount) bool {
	return m.ReadOnly || slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Name == m.Name && (v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil)
	})
}

// isInjected tells whether the pod has an agent that an injector of ours made,
// of whatever version and with whatever the API server and other webhooks have
// added to it.
func isInjected(pod *corev1.Pod) bool {
	identity, secrets := false, false
	for _, v := range pod.Spec.Volumes {
		identity = identity || v.Name == IdentityVolume && v.Projected != nil
		secrets = secrets || v.Name == SecretsVolume && v.EmptyDir != nil
	}
	i := agentIndex(pod)
	return identity && secrets && i >= 0 && configured(&pod.Spec.InitContainers[i])
}

// configured tells whether a container has a configuration of the agent's. Of
// a future version no more than the form is known.
func configured(c *corev1.Container) bool {
	var head struct {
		Version int `json:"version"`
		Vault   struct {
			Address string `json:"address"`
		} `json:"vault"`
	}
	return json.Unmarshal(configOf(c), &head) == nil && head.Version > 0 && head.Vault.Address != ""
}

// configOf is the agent's configuration in a container, nil where there is none.
func configOf(c *corev1.Container) []byte {
	env := make(map[string]string)
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			env[e.Name] = e.Value
		}
	}
	data, err := config.FromEnv(func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	})
	if err != nil {
		return nil
	}
	return data
}

// existingMountPath is where the containers of an injected pod see the files,
// empty if none does.
func existingMountPath(pod *corev1.Pod) string {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if m := secretsMount(&list[i]); m != nil && list[i].Name != AgentName {
				return m.MountPath
			}
		}
	}
	return ""
}

func secretsMount(c *corev1.Container) *corev1.VolumeMount {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].Name == SecretsVolume {
			return &c.VolumeMounts[i]
		}
	}
	return nil
}

// eachContainer visits every container, init containers first. The API server
// takes no new pod with ephemeral ones, and that is for it to say.
func eachContainer(pod *corev1.Pod, visit func(*corev1.Container)) {
	for i := range pod.Spec.InitContainers {
		visit(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		visit(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		visit((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// targets are the names of the containers that get the files, in the pod's
// order.
func targets(pod *corev1.Pod, spec *Spec, cfg *Config) []string {
	if spec.Containers != nil {
		return spec.Containers
	}
	return appContainers(pod, cfg)
}

// appContainers are the names of the pod's containers but for mesh proxies.
func appContainers(pod *corev1.Pod, cfg *Config) []string {
	return slices.DeleteFunc(containerNames(pod.Spec.Containers), func(name string) bool { return slices.Contains(cfg.MeshProxies, name) })
}

func containerNames(containers []corev1.Container) []string {
	names := make([]string, len(containers))
	for i, c := range containers {
		names[i] = c.Name
	}
	return names
}

// named are the containers with these names, in their own order.
func named(containers []corev1.Container, names []string) []*corev1.Container {
	var found []*corev1.Container
	for i := range containers {
		if slices.Contains(names, containers[i].Name) {
			found = append(found, &containers[i])
		}
	}
	return found
}
