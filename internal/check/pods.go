package check

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

// mostNamed is how many pods are named.
const mostNamed = 10

// pods looks for annotated pods that nobody injected: they run without their
// secrets, and nothing else tells.
func pods(ctx context.Context, e *env) []Result {
	injected, missed := 0, 0
	var names []string
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return e.kube.CoreV1().Pods("").List(ctx, o)
	})
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		p, isPod := object.(*corev1.Pod)
		switch {
		case !isPod || !wantsAgent(p):
		case hasAgent(p):
			injected++
		default:
			missed++
			if len(names) < mostNamed {
				names = append(names, p.Namespace+"/"+p.Name)
			}
		}
		return nil
	})
	if err != nil {
		return unread(err, "list", "pods in all namespaces")
	}
	if missed > 0 {
		if more := missed - len(names); more > 0 {
			names = append(names, fmt.Sprintf("and %d more", more))
		}
		return fail("delete them, so that their controller makes them again; those of the injector's own namespace and of excluded ones never get an agent",
			"%d of %d annotated pods were not injected and run without their secrets: %s", missed, missed+injected, strings.Join(names, ", "))
	}
	return ok("%s injected, and none was missed", plural(injected, "annotated pod"))
}

// wantsAgent tells whether a pod asks for an agent that it could still use.
func wantsAgent(p *corev1.Pod) bool {
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return false // the kubelet's own, which no webhook sees
	}
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	return p.Annotations[mutate.Prefix+"inject"] == "true" && !ended && p.DeletionTimestamp == nil
}
