package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// A Witness hears all that Latchkey says in a cluster: the logs of each agent,
// injector and authconfig from its first line to its last, Events, termination messages and
// whatever else a pod's status says, annotations, and what an agent's container
// is given. It looks for secrets in it.
type Witness struct {
	*Cluster

	stop context.CancelFunc
	ctx  context.Context
	logs sync.WaitGroup

	mu   sync.Mutex
	said map[saying]bool
	// heard are the logs that are, or were, followed, by container ID.
	heard map[string]*strings.Builder
	where map[string]string // by container ID
}

// A saying is one text and where it stood.
type saying struct{ where, text string }

// Witness begins to listen.
func (c *Cluster) Witness() (*Witness, error) {
	w := &Witness{
		Cluster: c,
		said:    make(map[saying]bool), heard: make(map[string]*strings.Builder), where: make(map[string]string),
	}
	if err := w.keepOwn(); err != nil {
		return nil, err
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	shared := informers.NewSharedInformerFactory(c.Kube, 0)
	_, podErr := shared.Core().V1().Pods().Informer().AddEventHandler(each(w.pod))
	_, eventErr := shared.Core().V1().Events().Informer().AddEventHandler(each(w.event))
	if err := errors.Join(podErr, eventErr); err != nil {
		return nil, fmt.Errorf("listening to the cluster: %w", err)
	}
	shared.StartWithContext(w.ctx)
	return w, nil
}

// keepOwn adds what the cluster itself keeps secret.
func (w *Witness) keepOwn() error {
	if err := w.Secrets.Add("the root token", w.Root.Token()); err != nil {
		return err
	}
	if !w.IsBox() {
		return nil
	}
	unseal, err := w.Kube.CoreV1().Secrets("vault").Get(context.Background(), "vault-unseal", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the unseal key: %w", err)
	}
	return w.Secrets.Add("the unseal key", string(unseal.Data["key"]))
}

// each calls f with each version of each object.
func each[T any](f func(T)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { f(object.(T)) },
		UpdateFunc: func(_, object any) { f(object.(T)) },
		DeleteFunc: func(object any) {
			if last, ok := object.(T); ok {
				f(last)
			}
		},
	}
}

func (w *Witness) say(text, where string, args ...any) {
	if text == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said[saying{fmt.Sprintf(where, args...), text}] = true
}

func (w *Witness) event(e *corev1.Event) {
	w.say(e.Message, "an Event %s of %s %s/%s", e.Reason, e.InvolvedObject.Kind, e.Namespace, e.InvolvedObject.Name)
	for key, value := range e.Annotations {
		w.say(value, "annotation %s of an Event of %s/%s", key, e.Namespace, e.InvolvedObject.Name)
	}
}

func (w *Witness) pod(p *corev1.Pod) {
	// Of these all is ours, of an app's pod the agent alone.
	ours := p.Namespace == InstallNamespace || p.Labels["app.kubernetes.io/name"] == AuthconfigName
	if _, injected := p.Annotations["latchkey.dev/status"]; !injected && !ours {
		return
	}
	pod := p.Namespace + "/" + p.Name
	for key, value := range p.Annotations {
		w.say(value, "annotation %s of %s", key, pod)
	}
	w.say(p.Status.Message, "the status of %s", pod)
	for _, c := range p.Status.Conditions {
		w.say(c.Message, "condition %s of %s", c.Type, pod)
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if spec, err := json.Marshal(c); err == nil && c.Name == agentName {
			w.say(string(spec), "the agent's container in %s", pod)
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if state.Waiting != nil {
				w.say(state.Waiting.Message, "what container %s of %s waits for", c.Name, pod)
			}
			if state.Terminated != nil {
				w.say(state.Terminated.Message, "the termination message of %s of %s", c.Name, pod)
			}
		}
		if ours || c.Name == agentName {
			w.hear(p, c)
		}
	}
}

// hear follows a container's log, unless that was begun. Of one that was
// restarted before anybody listened it reads what the kubelet has kept.
func (w *Witness) hear(p *corev1.Pod, c corev1.ContainerStatus) {
	if last := c.LastTerminationState.Terminated; last != nil {
		w.listen(p, c.Name, last.ContainerID, &corev1.PodLogOptions{Container: c.Name, Previous: true})
	}
	if c.State.Running != nil || c.State.Terminated != nil {
		w.listen(p, c.Name, c.ContainerID, &corev1.PodLogOptions{Container: c.Name, Follow: true})
	}
}

func (w *Witness) listen(p *corev1.Pod, container, id string, o *corev1.PodLogOptions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id == "" || w.heard[id] != nil {
		return
	}
	text := new(strings.Builder)
	w.heard[id] = text
	w.where[id] = fmt.Sprintf("the log of %s of %s/%s", container, p.Namespace, p.Name)
	w.logs.Go(func() {
		for w.read(p, o, text) && w.ctx.Err() == nil {
			select {
			case <-time.After(time.Second): // it has not got a log yet, or the kubelet was restarted
			case <-w.ctx.Done():
			}
		}
	})
}

// read adds a log to text and reports whether it may have more.
func (w *Witness) read(p *corev1.Pod, o *corev1.PodLogOptions, text *strings.Builder) (again bool) {
	pods := w.Kube.CoreV1().Pods(p.Namespace)
	stream, err := pods.GetLogs(p.Name, o).Stream(w.ctx)
	if err == nil {
		defer stream.Close()
		buf := make([]byte, 16<<10)
		for err == nil {
			var n int
			n, err = stream.Read(buf)
			w.mu.Lock()
			text.Write(buf[:n])
			w.mu.Unlock()
		}
	}
	if o.Previous {
		return false
	}
	now, err := pods.Get(w.ctx, p.Name, metav1.GetOptions{})
	if err != nil || now.UID != p.UID {
		return false
	}
	for _, c := range slices.Concat(now.Status.InitContainerStatuses, now.Status.ContainerStatuses) {
		if c.Name == o.Container && c.State.Running != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.heard[c.ContainerID] == text
		}
	}
	return false
}

// level is how a line of a log begins to say how grave it is.
var level = regexp.MustCompile(`"level":"([A-Z]+)"`)

// End stops listening and returns an error that says where secrets were found,
// without them. The summary says what was looked at.
func (w *Witness) End(ctx context.Context) (summary string, err error) {
	err = w.metrics(ctx)
	w.stop()
	w.logs.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	size, lines, all := 0, make(map[string]int), maps.Clone(w.said)
	for id, text := range w.heard {
		all[saying{w.where[id], text.String()}] = true
		for _, found := range level.FindAllStringSubmatch(text.String(), -1) {
			lines[found[1]]++
		}
	}
	var leaked []error
	for s := range all {
		size += len(s.text)
		for _, found := range w.Secrets.In(s.text) {
			leaked = append(leaked, fmt.Errorf("%s, %s", s.where, found))
		}
	}
	if len(w.heard) == 0 {
		err = errors.Join(err, errors.New("no log was heard, not even of an injector"))
	}
	summary = fmt.Sprintf("looked for %d secrets in %d logs (%v lines) and %d Events, messages, annotations and metrics, %.1f MB in all: %d found",
		w.Secrets.Len(), len(w.heard), lines, len(w.said), float64(size)/1e6, len(leaked))
	return summary, errors.Join(append(leaked, err)...)
}

// metrics adds what the injectors count.
func (w *Witness) metrics(ctx context.Context) error {
	pods, err := w.Kube.CoreV1().Pods(InstallNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + InjectorName})
	if err != nil {
		return fmt.Errorf("listing the injectors: %w", err)
	}
	for _, p := range pods.Items {
		text, err := w.Kube.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, "8080", "metrics", nil).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("reading the metrics of %s: %w", p.Name, err)
		}
		w.say(string(text), "the metrics of %s", p.Name)
	}
	return nil
}
