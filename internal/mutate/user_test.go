package mutate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

func id(n int64) *int64 { return &n }

// The kernel looks at the owner's bits where the user is the owner, at the
// group's where it is in the group, and at no others then.
func TestCanRead(t *testing.T) {
	agent := runAs{uid: id(1000), gid: id(2000)}
	capable := func(add, drop []corev1.Capability) *corev1.SecurityContext {
		return &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: add, Drop: drop}}
	}
	for name, c := range map[string]struct {
		uid     int64
		pod     corev1.PodSecurityContext
		app     *corev1.SecurityContext
		grouped bool
		mode    config.Mode
		want    bool
	}{
		"owner":                                 {uid: 1000, mode: 0o400, want: true},
		"owner without the owner's bit":         {uid: 1000, pod: corev1.PodSecurityContext{RunAsGroup: id(2000)}, mode: 0o044, want: false},
		"owner in the volume's group":           {uid: 1000, grouped: true, mode: 0o044, want: false},
		"other":                                 {uid: 1, mode: 0o440, want: false},
		"other with everybody's bit":            {uid: 1, mode: 0o004, want: true},
		"the agent's group":                     {uid: 1, pod: corev1.PodSecurityContext{RunAsGroup: id(2000)}, mode: 0o440, want: true},
		"the agent's group by the container":    {uid: 1, pod: corev1.PodSecurityContext{RunAsGroup: id(1)}, app: &corev1.SecurityContext{RunAsGroup: id(2000)}, mode: 0o440, want: true},
		"group without the group's bit":         {uid: 1, pod: corev1.PodSecurityContext{RunAsGroup: id(2000)}, mode: 0o404, want: false},
		"another group":                         {uid: 1, pod: corev1.PodSecurityContext{RunAsGroup: id(1)}, mode: 0o440, want: false},
		"a supplemental group":                  {uid: 1, pod: corev1.PodSecurityContext{RunAsGroup: id(1), SupplementalGroups: []int64{7, 2000}}, mode: 0o440, want: true},
		"other supplemental groups":             {uid: 1, pod: corev1.PodSecurityContext{SupplementalGroups: []int64{7}}, mode: 0o440, want: false},
		"the volume's group":                    {uid: 1, grouped: true, mode: 0o440, want: true},
		"root":                                  {uid: 0, mode: 0o400, want: true},
		"root without capabilities":             {uid: 0, app: capable(nil, []corev1.Capability{"ALL"}), mode: 0o440, want: false},
		"root without the one":                  {uid: 0, app: capable(nil, []corev1.Capability{"DAC_OVERRIDE"}), mode: 0o440, want: false},
		"root without the one by its CAP_ name": {uid: 0, app: capable(nil, []corev1.Capability{"CAP_DAC_OVERRIDE"}), mode: 0o440, want: false},
		"root without others":                   {uid: 0, app: capable(nil, []corev1.Capability{"NET_RAW"}), mode: 0o400, want: true},
		"root with ALL":                         {uid: 0, app: capable([]corev1.Capability{"ALL"}, nil), mode: 0o400, want: true},
		"root with DAC_OVERRIDE alone":          {uid: 0, app: capable([]corev1.Capability{"DAC_OVERRIDE"}, []corev1.Capability{"ALL"}), mode: 0o400, want: true},
		"root with CAP_DAC_OVERRIDE alone":      {uid: 0, app: capable([]corev1.Capability{"CAP_DAC_OVERRIDE"}, []corev1.Capability{"ALL"}), mode: 0o400, want: true},
		"root with DAC_READ_SEARCH alone":       {uid: 0, app: capable([]corev1.Capability{"DAC_READ_SEARCH"}, []corev1.Capability{"ALL"}), mode: 0o400, want: true},
		"root with CAP_DAC_READ_SEARCH alone":   {uid: 0, app: capable([]corev1.Capability{"CAP_DAC_READ_SEARCH"}, []corev1.Capability{"ALL"}), mode: 0o400, want: true},
		"not root with capabilities":            {uid: 1, app: capable([]corev1.Capability{"DAC_OVERRIDE"}, nil), mode: 0o400, want: false},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &c.pod}}
		app := &corev1.Container{Name: "app", SecurityContext: c.app}
		if got := canRead(c.uid, pod, app, c.mode, c.grouped, agent); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The agent is never in root's group, whatever the pod says, and else in the
// pod's own.
func TestGroupOfTheAgent(t *testing.T) {
	for name, c := range map[string]struct {
		pod         *corev1.PodSecurityContext
		stated, gid *int64
	}{
		"nothing":            {nil, id(65532), id(65532)},
		"no group":           {&corev1.PodSecurityContext{}, id(65532), id(65532)},
		"root's group":       {&corev1.PodSecurityContext{RunAsGroup: id(0)}, id(65532), id(65532)},
		"a group":            {&corev1.PodSecurityContext{RunAsGroup: id(7)}, nil, id(7)},
		"a user and a group": {&corev1.PodSecurityContext{RunAsUser: id(5), RunAsGroup: id(7)}, nil, id(7)},
		"root and a group":   {&corev1.PodSecurityContext{RunAsUser: id(0), RunAsGroup: id(7)}, id(65532), id(65532)},
	} {
		got := podUser(&corev1.Pod{Spec: corev1.PodSpec{SecurityContext: c.pod}}, nil)
		if !same(got.statedGID, c.stated) || !same(got.gid, c.gid) {
			t.Errorf("%s: states %v and has %v", name, got.statedGID, got.gid)
		}
	}
}

func same(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }
