package harness

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// ScaleDeployment sets the replicas of a Deployment and waits until so many
// are ready, and no other pod of it is left.
func (c *Cluster) ScaleDeployment(ctx context.Context, namespace, name string, replicas int32) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	d, err := c.Kube.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("scaling deployment %s to %d: %w", name, replicas, err)
	}
	_, err = until(ctx, c.Kube.AppsV1().RESTClient(), "deployments", namespace, fields.OneTermEqualSelector("metadata.name", name), &appsv1.Deployment{},
		func(now *appsv1.Deployment, gone bool) bool {
			return !gone && now.Status.ObservedGeneration >= d.Generation && now.Status.Replicas == replicas && now.Status.ReadyReplicas == replicas
		})
	if err != nil {
		return fmt.Errorf("waiting for deployment %s to have %d replicas: %w", name, replicas, err)
	}
	return c.waitPods(ctx, namespace, d.Spec.Selector, int(replicas))
}

// ScaleStatefulSet sets the replicas of a StatefulSet and waits until so many
// are ready, and no other pod of it is left.
func (c *Cluster) ScaleStatefulSet(ctx context.Context, namespace, name string, replicas int32) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	set, err := c.Kube.AppsV1().StatefulSets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("scaling statefulset %s to %d: %w", name, replicas, err)
	}
	_, err = until(ctx, c.Kube.AppsV1().RESTClient(), "statefulsets", namespace, fields.OneTermEqualSelector("metadata.name", name), &appsv1.StatefulSet{},
		func(now *appsv1.StatefulSet, gone bool) bool {
			return !gone && now.Status.ObservedGeneration >= set.Generation && now.Status.Replicas == replicas && now.Status.ReadyReplicas == replicas
		})
	if err != nil {
		return fmt.Errorf("waiting for statefulset %s to have %d replicas: %w", name, replicas, err)
	}
	return c.waitPods(ctx, namespace, set.Spec.Selector, int(replicas))
}

// waitPods waits until exactly n pods match: a pod that ends still serves for
// a while after its controller has stopped to count it.
func (c *Cluster) waitPods(ctx context.Context, namespace string, selector *metav1.LabelSelector, n int) error {
	match, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return fmt.Errorf("reading a selector: %w", err)
	}
	present := map[string]bool{}
	list, err := c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: match.String()})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	if len(list.Items) == n {
		return nil
	}
	for _, p := range list.Items {
		present[p.Name] = true
	}
	_, err = until(ctx, c.Kube.CoreV1().RESTClient(), "pods", namespace, fields.Everything(), &corev1.Pod{},
		func(p *corev1.Pod, gone bool) bool {
			if match.Matches(labels.Set(p.Labels)) {
				if present[p.Name] = true; gone {
					delete(present, p.Name)
				}
			}
			return len(present) == n
		})
	if err != nil {
		return fmt.Errorf("waiting for %d pods of %s: %w", n, match, err)
	}
	return nil
}
