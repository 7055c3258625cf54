package check

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

func TestPods(t *testing.T) {
	var objects []runtime.Object
	add := func(name string, change func(*corev1.Pod)) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{"latchkey.dev/inject": "true"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		change(p)
		objects = append(objects, p)
	}
	inject := func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "latchkey-agent"}} }
	add("injected", inject)
	add("injected-too", inject)
	add("plain", func(p *corev1.Pod) { p.Annotations = nil })
	add("opted-out", func(p *corev1.Pod) { p.Annotations["latchkey.dev/inject"] = "false" })
	add("ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	add("ending", func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()); p.Finalizers = []string{"a/b"} })
	add("static", func(p *corev1.Pod) { p.Annotations["kubernetes.io/config.mirror"] = "x" })
	want(t, "all injected", pods(t.Context(), &env{kube: fake.NewClientset(objects...)}), "ok    : 2 annotated pods injected, and none was missed\n")

	for i := range 12 {
		add(fmt.Sprintf("missed-%02d", i), func(*corev1.Pod) {})
	}
	want(t, "missed", pods(t.Context(), &env{kube: fake.NewClientset(objects...)}),
		"FAIL  : 12 of 14 annotated pods were not injected and run without their secrets: shop/missed-00, shop/missed-01,", "shop/missed-09, and 2 more (delete them")
}
