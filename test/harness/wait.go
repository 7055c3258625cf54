package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// Patience is how long a wait may last that is expected to end well. It is
// long since the machine may be busy; nothing is measured by it.
const Patience = 3 * time.Minute

// until watches objects until done says so. A deleted object is passed to done
// with gone set.
func until[T runtime.Object](ctx context.Context, client rest.Interface, resource, namespace string, selector fields.Selector, example T, done func(object T, gone bool) bool) (T, error) {
	var last T
	lw := cache.NewListWatchFromClient(client, resource, namespace, selector)
	_, err := watchtools.UntilWithSync(ctx, lw, example, nil, func(e watch.Event) (bool, error) {
		object, ok := e.Object.(T)
		if !ok {
			return false, fmt.Errorf("watching %s: %v", resource, e.Object)
		}
		last = object
		return done(object, e.Type == watch.Deleted), nil
	})
	return last, err
}

// WaitPod waits until the pod is as done describes.
func (c *Cluster) WaitPod(ctx context.Context, namespace, name, what string, done func(*corev1.Pod) bool) (*corev1.Pod, error) {
	pod, err := until(ctx, c.Kube.CoreV1().RESTClient(), "pods", namespace, fields.OneTermEqualSelector("metadata.name", name), &corev1.Pod{},
		func(p *corev1.Pod, gone bool) bool { return !gone && done(p) })
	if err != nil {
		return nil, fmt.Errorf("waiting for pod %s to be %s: %w\n%s", name, what, err, describe(pod))
	}
	return pod, nil
}

// WaitPod waits until the pod is as done describes.
func (s *Space) WaitPod(name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	s.Helper()
	return s.WaitPodFor(Patience, name, what, done)
}

// WaitPodFor is WaitPod with a limit of its own.
func (s *Space) WaitPodFor(limit time.Duration, name, what string, done func(*corev1.Pod) bool) *corev1.Pod {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	pod, err := s.Cluster.WaitPod(ctx, s.Name, name, what, done)
	if err != nil {
		s.Fatalf("after %s: %v", limit, err)
	}
	return pod
}

// PodNames waits until n pods have the label and returns their names.
func (s *Space) PodNames(label string, n int) []string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	var names []string
	_, err := until(ctx, s.Kube.CoreV1().RESTClient(), "pods", s.Name, fields.Everything(), &corev1.Pod{},
		func(p *corev1.Pod, gone bool) bool {
			key, value, _ := strings.Cut(label, "=")
			if !gone && p.Labels[key] == value && !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
			return len(names) == n
		})
	if err != nil {
		s.Fatalf("waiting for %d pods with label %s: %v, seen: %q", n, label, err, names)
	}
	return names
}

// WaitJob waits until the Job is as done describes.
func (s *Space) WaitJob(name, what string, done func(*batchv1.Job) bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	job, err := until(ctx, s.Kube.BatchV1().RESTClient(), "jobs", s.Name, fields.OneTermEqualSelector("metadata.name", name), &batchv1.Job{},
		func(j *batchv1.Job, gone bool) bool { return !gone && done(j) })
	if err != nil {
		s.Fatalf("waiting for Job %s to be %s: %v, its status: %+v", name, what, err, job.Status)
	}
}

// WaitGone waits until the pod is deleted.
func (c *Cluster) WaitGone(ctx context.Context, namespace, name string) error {
	return c.waitGone(ctx, "pods", namespace, name, &corev1.Pod{})
}

func (c *Cluster) waitGone(ctx context.Context, resource, namespace, name string, example runtime.Object) error {
	lw := cache.NewListWatchFromClient(c.Kube.CoreV1().RESTClient(), resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	// It may have gone before the watch began, which then sees nothing: the
	// precondition looks at what the watch starts from.
	absent := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
	_, err := watchtools.UntilWithSync(ctx, lw, example, absent, func(e watch.Event) (bool, error) {
		return e.Type == watch.Deleted, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %s %s to be gone: %w", strings.TrimSuffix(resource, "s"), name, err)
	}
	return nil
}

// WaitGone waits until the pod is deleted.
func (s *Space) WaitGone(limit time.Duration, name string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	if err := s.Cluster.WaitGone(ctx, s.Name, name); err != nil {
		s.Fatalf("after %s: %v", limit, err)
	}
}

// WaitEvent waits for an Event on the named object whose message has all of parts.
func (s *Space) WaitEvent(kind, namePrefix, reason string, parts ...string) *corev1.Event {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	var seen []string
	event, err := until(ctx, s.Kube.CoreV1().RESTClient(), "events", s.Name, fields.Everything(), &corev1.Event{},
		func(e *corev1.Event, gone bool) bool {
			if gone || e.InvolvedObject.Kind != kind || !strings.HasPrefix(e.InvolvedObject.Name, namePrefix) || e.Reason != reason {
				return false
			}
			seen = append(seen, e.Message)
			for _, part := range parts {
				if !strings.Contains(e.Message, part) {
					return false
				}
			}
			return true
		})
	if err != nil {
		s.Fatalf("waiting for an Event %s on %s %s with %q: %v\nseen:\n%s", reason, kind, namePrefix, parts, err, strings.Join(seen, "\n"))
	}
	return event
}

// Ready reports whether the pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Started reports whether the app's container ran at least once.
func Started(p *corev1.Pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// Succeeded reports whether the pod ended well.
func Succeeded(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }

// agentName is the name of the agent's container.
const agentName = "latchkey-agent"

// Agent is the status of the agent's container, or nil where there is none yet.
func Agent(p *corev1.Pod) *corev1.ContainerStatus {
	for i := range p.Status.InitContainerStatuses {
		if p.Status.InitContainerStatuses[i].Name == agentName {
			return &p.Status.InitContainerStatuses[i]
		}
	}
	return nil
}

// AgentRunning reports whether the agent's process runs.
func AgentRunning(p *corev1.Pod) bool {
	a := Agent(p)
	return a != nil && a.State.Running != nil
}

func describe(p *corev1.Pod) string {
	if p == nil {
		return "no such pod was seen"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s: %s %s\n", p.Name, p.Status.Phase, p.Status.Message)
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			state := "?"
			switch {
			case c.State.Running != nil:
				state = "running"
			case c.State.Waiting != nil:
				state = "waiting: " + c.State.Waiting.Reason + ": " + c.State.Waiting.Message
			case c.State.Terminated != nil:
				state = fmt.Sprintf("terminated: exit %d: %s", c.State.Terminated.ExitCode, c.State.Terminated.Message)
			}
			fmt.Fprintf(&b, "  %s: ready=%v restarts=%d %s\n", c.Name, c.Ready, c.RestartCount, state)
		}
	}
	return b.String()
}
