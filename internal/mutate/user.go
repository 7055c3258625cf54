package mutate

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// nonRoot is the user and group of the agent's image.
const nonRoot int64 = 65532

// runAs is who the agent runs as.
type runAs struct {
	// statedUID and statedGID stand in the container; nil leaves them to the
	// pod, the image or the platform.
	statedUID, statedGID *int64
	// uid and gid are the agent's in the end, nil where they are not known.
	uid, gid *int64
}

// agentUser chooses the agent's user so that the apps can read its files at
// the tightest mode. The pod's own user is inherited unless it is root; where
// the pod states none, the agent is whoever all of its readers are. What the
// spec asks for goes before all that.
func agentUser(pod *corev1.Pod, readers []*corev1.Container, spec *Spec) runAs {
	id := podUser(pod, readers)
	if spec.RunAsUser != nil {
		group := nonRoot
		id.statedUID, id.uid = spec.RunAsUser, spec.RunAsUser
		if id.gid == nil {
			id.statedGID, id.gid = &group, &group
		}
	}
	if spec.RunAsGroup != nil {
		id.statedGID, id.gid = spec.RunAsGroup, spec.RunAsGroup
	}
	return id
}

// podUser is the agent's user as the pod decides it.
func podUser(pod *corev1.Pod, readers []*corev1.Container) runAs {
	group := nonRoot
	sc := pod.Spec.SecurityContext
	if sc != nil && sc.RunAsUser != nil {
		if *sc.RunAsUser > 0 {
			return runAs{uid: sc.RunAsUser, gid: sc.RunAsGroup}
		}
		user := nonRoot
		return runAs{statedUID: &user, statedGID: &group, uid: &user, gid: &group}
	}
	// Without a group the kubelet would pass on the image's user alone, and
	// the group would be root's.
	id := runAs{statedGID: &group, gid: &group}
	if sc != nil && sc.RunAsGroup != nil && *sc.RunAsGroup > 0 {
		id.statedGID, id.gid = nil, sc.RunAsGroup
	}
	if uid := commonUID(pod, readers); uid != nil && *uid > 0 {
		id.statedUID, id.uid = uid, uid
	}
	return id
}

// commonUID is the one user that all containers are stated to run as, or nil.
func commonUID(pod *corev1.Pod, containers []*corev1.Container) *int64 {
	var common *int64
	for _, c := range containers {
		uid := userOf(pod, c)
		if uid == nil || common != nil && *common != *uid {
			return nil
		}
		common = uid
	}
	return common
}

// userOf is the user that a container is stated to run as, nil where its image
// or the platform decides.
func userOf(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
		return c.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

// groupOf is the group that a container is stated to run as, nil where its image
// or the platform decides.
func groupOf(pod *corev1.Pod, c *corev1.Container) *int64 {
	if c.SecurityContext != nil && c.SecurityContext.RunAsGroup != nil {
		return c.SecurityContext.RunAsGroup
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsGroup
	}
	return nil
}

// setModes fills in the mode of each file that states none, with the tightest
// that all readers can read, and warns of stated ones that a reader cannot. It
// leaves what cfg points to as it was, for other pods.
func setModes(cfg *config.Agent, pod *corev1.Pod, readers []*corev1.Container, agent runAs) []string {
	grouped := pod.Spec.SecurityContext != nil && pod.Spec.SecurityContext.FSGroup != nil
	common := commonUID(pod, readers)
	mode := config.Mode(0o444)
	switch {
	case agent.uid != nil && common != nil && *common == *agent.uid:
		mode = 0o400
	case grouped:
		// The volume's files belong to this group, and every container of the
		// pod is in it.
		mode = 0o440
	}
	var warnings []string
	unreadable := 0
	fill := func(row, path string, stated *config.Mode) {
		if *stated == 0 {
			*stated = mode
			return
		}
		for _, c := range readers {
			uid := userOf(pod, c)
			if uid == nil || canRead(*uid, pod, c, *stated, grouped, agent) {
				continue
			}
			if unreadable++; unreadable <= maxTold {
				warnings = append(warnings, fmt.Sprintf("%s%s: container %q runs as user %d and cannot read %q with mode %s (%s is the tightest that every container can read)",
					Prefix, row, c.Name, *uid, path, *stated, mode))
			}
		}
	}
	cfg.Files = slices.Clone(cfg.Files)
	for i := range cfg.Files {
		fill("files", cfg.Files[i].Path, &cfg.Files[i].Mode)
	}
	if cfg.TokenFile != nil {
		token := *cfg.TokenFile
		fill("token-file", token.Path, &token.Mode)
		cfg.TokenFile = &token
	}
	if cfg.Local != nil && cfg.Local.Socket != "" {
		local := *cfg.Local
		local.Mode = mode | mode>>1 // who may read the files may connect
		cfg.Local = &local
	}
	if unreadable > maxTold {
		warnings = append(warnings, fmt.Sprintf("%sfiles: %d more such modes", Prefix, unreadable-maxTold))
	}
	return warnings
}

// canRead tells whether a container's user can read a file of the agent's.
func canRead(uid int64, pod *corev1.Pod, c *corev1.Container, mode config.Mode, grouped bool, agent runAs) bool {
	gid := groupOf(pod, c)
	switch {
	case uid == 0 && overridesModes(c):
		return true
	case uid == agent.likelyUID():
		return mode&0o400 != 0
	case grouped, agent.gid != nil && (gid != nil && *gid == *agent.gid || slices.Contains(supplementalGroups(pod), *agent.gid)):
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// supplementalGroups are the groups that all containers of the pod are in.
func supplementalGroups(pod *corev1.Pod) []int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.SupplementalGroups
}

// likelyUID is the agent's user, or that of its image where nothing else is known.
func (r runAs) likelyUID() int64 {
	if r.uid != nil {
		return *r.uid
	}
	return nonRoot
}

// overridesModes tells whether root in this container has the capability that
// makes modes void for it, which is among the runtimes' defaults.
func overridesModes(c *corev1.Container) bool {
	if c.SecurityContext == nil || c.SecurityContext.Capabilities == nil {
		return true
	}
	caps := c.SecurityContext.Capabilities
	has := func(list []corev1.Capability, names ...corev1.Capability) bool {
		return slices.ContainsFunc(names, func(n corev1.Capability) bool { return slices.Contains(list, n) })
	}
	if has(caps.Add, "ALL", "DAC_OVERRIDE", "CAP_DAC_OVERRIDE", "DAC_READ_SEARCH", "CAP_DAC_READ_SEARCH") {
		return true
	}
	return !has(caps.Drop, "ALL", "DAC_OVERRIDE", "CAP_DAC_OVERRIDE")
}

// warnOfSignals warns of signals that cannot reach anybody: the agent has no
// privileges, and may signal only processes of its own user.
func warnOfSignals(cfg *config.Agent, pod *corev1.Pod, readers []*corev1.Container, agent runAs) []string {
	if slices.ContainsFunc(readers, func(c *corev1.Container) bool {
		uid := userOf(pod, c)
		return uid != nil && *uid == agent.likelyUID()
	}) {
		return nil
	}
	for _, n := range cfg.Notify {
		if n.Signal != nil {
			return []string{fmt.Sprintf("%snotify: no container that gets the files is stated to run as user %d, the only one whose processes the agent may signal (securityContext.runAsUser, or %srun-as-user)", Prefix, agent.likelyUID(), Prefix)}
		}
	}
	return nil
}
