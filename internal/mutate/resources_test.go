package mutate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) corev1.ResourceList {
	l := make(corev1.ResourceList)
	for name, value := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if value != "" {
			l[name] = resource.MustParse(value)
		}
	}
	return l
}

// What is stated for the pod as a whole is shared by its containers: the
// operator's defaults for the agent would come on top of it, so they are left
// out, of that resource alone.
func TestPodLevelResources(t *testing.T) {
	defaults := corev1.ResourceRequirements{Requests: list("5m", "16Mi"), Limits: list("1", "64Mi")}
	for name, c := range map[string]struct {
		whole, stated, want corev1.ResourceRequirements
	}{
		"a limit":            {corev1.ResourceRequirements{Limits: list("2", "")}, corev1.ResourceRequirements{}, corev1.ResourceRequirements{Requests: list("", "16Mi"), Limits: list("", "64Mi")}},
		"a request":          {corev1.ResourceRequirements{Requests: list("", "1Gi")}, corev1.ResourceRequirements{}, corev1.ResourceRequirements{Requests: list("5m", ""), Limits: list("1", "")}},
		"a stated request":   {corev1.ResourceRequirements{Limits: list("2", "1Gi")}, corev1.ResourceRequirements{Requests: list("7m", "")}, corev1.ResourceRequirements{Requests: list("7m", "")}},
		"a stated limit":     {corev1.ResourceRequirements{Limits: list("2", "1Gi")}, corev1.ResourceRequirements{Limits: list("7m", "")}, corev1.ResourceRequirements{Requests: list("5m", ""), Limits: list("7m", "")}},
		"all, as Guaranteed": {corev1.ResourceRequirements{Requests: list("2", "1Gi"), Limits: list("2", "1Gi")}, corev1.ResourceRequirements{}, corev1.ResourceRequirements{}},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: &c.whole, Containers: []corev1.Container{{
			// Guaranteed by itself: the pod's resources decide nevertheless.
			Name: "app", Resources: corev1.ResourceRequirements{Limits: list("1", "512Mi")},
		}}}}
		got, warnings := agentResources(pod, c.stated, defaults)
		if !sameList(got.Requests, c.want.Requests) || !sameList(got.Limits, c.want.Limits) || len(warnings) > 0 {
			t.Errorf("%s: %v %v", name, got, warnings)
		}
	}
}

func sameList(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		if other, ok := b[name]; !ok || value.Cmp(other) != 0 {
			return false
		}
	}
	return true
}

// A pod is Guaranteed where every container has limits of both resources, and
// no other requests. A limit of 0 is none.
func TestGuaranteed(t *testing.T) {
	for name, c := range map[string]struct {
		app  corev1.ResourceRequirements
		want bool
	}{
		"limits alone":     {corev1.ResourceRequirements{Limits: list("1", "1Gi")}, true},
		"equal requests":   {corev1.ResourceRequirements{Limits: list("1", "1Gi"), Requests: list("1000m", "1Gi")}, true},
		"a lower request":  {corev1.ResourceRequirements{Limits: list("1", "1Gi"), Requests: list("1", "1Mi")}, false},
		"one limit":        {corev1.ResourceRequirements{Limits: list("1", "")}, false},
		"a limit of 0":     {corev1.ResourceRequirements{Limits: list("0", "1Gi")}, false},
		"requests alone":   {corev1.ResourceRequirements{Requests: list("1", "1Gi")}, false},
		"nothing":          {corev1.ResourceRequirements{}, false},
		"both limits of 0": {corev1.ResourceRequirements{Limits: list("0", "0"), Requests: list("0", "0")}, false},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: c.app}, {Resources: corev1.ResourceRequirements{Limits: list("1", "1Gi")}}}}}
		if got := guaranteed(pod); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
