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
	// uid is the agent's in the end, nil where it is not known.
	uid *int64
}

// agentUser chooses the agent's user so that the apps can read its files at
// the tightest mode. The pod's own user is inherited unless it is root; where
// the pod states none, the agent is whoever all of its readers are.
func agentUser(pod *corev1.Pod, readers []*corev1.Container) runAs {
	group := nonRoot
	sc := pod.Spec.SecurityContext
	if sc != nil && sc.RunAsUser != nil {
		if *sc.RunAsUser > 0 {
			return runAs{uid: sc.RunAsUser}
		}
		user := nonRoot
		return runAs{statedUID: &user, statedGID: &group, uid: &user}
	}
	// Without a group the kubelet would pass on the image's user alone, and
	// the group would be root's.
	id := runAs{statedGID: &group}
	if sc != nil && sc.RunAsGroup != nil && *sc.RunAsGroup > 0 {
		id.statedGID = nil
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

// setModes fills in the mode of each file that states none, with the tightest
// that all readers can read, and warns of stated ones that a reader cannot.
func setModes(files []config.File, pod *corev1.Pod, readers []*corev1.Container, agent runAs) []string {
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
	for i := range files {
		f := &files[i]
		if f.Mode == 0 {
			f.Mode = mode
			continue
		}
		for _, c := range readers {
			uid := userOf(pod, c)
			if uid == nil || canRead(*uid, c, f.Mode, grouped, agent) {
				continue
			}
			if unreadable++; unreadable <= maxTold {
				warnings = append(warnings, fmt.Sprintf("%sfiles: container %q runs as user %d and cannot read %q with mode %s (%s is the tightest that every container can read)",
					Prefix, c.Name, *uid, f.Path, f.Mode, mode))
			}
		}
	}
	if unreadable > maxTold {
		warnings = append(warnings, fmt.Sprintf("%sfiles: %d more such modes", Prefix, unreadable-maxTold))
	}
	return warnings
}

// canRead tells whether a container's user can read a file of the agent's.
func canRead(uid int64, c *corev1.Container, mode config.Mode, grouped bool, agent runAs) bool {
	owner := nonRoot
	if agent.uid != nil {
		owner = *agent.uid
	}
	switch {
	case uid == 0 && overridesModes(c):
		return true
	case uid == owner:
		return mode&0o400 != 0
	case grouped:
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
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
