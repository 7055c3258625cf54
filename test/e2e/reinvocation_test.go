package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

var record = flag.Bool("record", false, "write the recorded reviews to internal/mutate/testdata")

// Another webhook adds a container after ours, in a namespace with a
// LimitRange. The API server then calls us again, with all that it has
// defaulted by then; that call must change nothing.
func TestReinvocationChangesNothing(t *testing.T) {
	s := aSpace(t)
	s.Create(`
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - type: Container
    default: {cpu: 200m, memory: 64Mi}
    defaultRequest: {cpu: 10m, memory: 32Mi}
`)
	addWebhook(t, s, "zz-late", admissionregistrationv1.NeverReinvocationPolicy, patching(func(*corev1.Pod) []operation {
		return []operation{add("/spec/containers/-", busybox("late", stay))}
	}))
	seen := recordInjector(t)

	s.Create(pod{name: "app", annotations: wants(s.Name), script: gated}.String())
	wantGated(s, "app")

	calls := seen()
	if len(calls) < 2 {
		t.Fatalf("the API server called the injector %d times, want a second call after the other webhook", len(calls))
	}
	if len(calls[0].response.Patch) == 0 {
		t.Error("the first call patched nothing")
	}
	second := calls[len(calls)-1]
	if !second.response.Allowed || len(second.response.Patch) != 0 {
		t.Errorf("the second call answered %+v with patch %s, want no operation", second.response.Result, second.response.Patch)
	}
	if !bytes.Contains(second.review, []byte(`"late"`)) {
		t.Error("the second call does not hold the late container: it is no reinvocation")
	}
	p := s.WaitPod("app", "ready", harness.Ready)
	for _, c := range p.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if c.Name == "late" && m.Name == "latchkey-secrets" {
				t.Error("a container that another webhook added was given the files")
			}
		}
	}
	if *record {
		for i, call := range calls {
			save(t, []string{"recorded-first", "recorded-again"}[min(i, 1)], call.review)
		}
	}
}

// A webhook behind ours adds whatever webhooks add: containers and the
// annotations that name them, a mesh's native sidecar before or behind our
// agent, and a debugger in front of all, where it moves what was counted
// before. Each gets what it is meant to have, and nothing is there twice.
func TestReinvocationReachesWhatCameLater(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(`
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - type: Container
    default: {cpu: 200m, memory: 64Mi}
    defaultRequest: {cpu: 10m, memory: 32Mi}
`)
	addWebhook(t, s, "zz-late", admissionregistrationv1.IfNeededReinvocationPolicy, patching(func(p *corev1.Pod) []operation {
		if len(p.Spec.Containers) > 1 {
			return nil // we are asked again
		}
		proxy := busybox("istio-proxy", stay)
		proxy["restartPolicy"] = "Always"
		operations := []operation{
			add("/metadata/annotations/latchkey.dev~1containers", "app,worker"),
			add("/spec/containers/-", busybox("worker", readFirst+stay)),
			add("/spec/containers/0", busybox("debugger", stay)),
		}
		switch p.Name {
		case "mesh-first":
			return append(operations, add("/spec/initContainers/0", proxy))
		case "mesh-last":
			return append(operations, add("/spec/initContainers/-", proxy))
		}
		return append(operations, add("/spec/initContainers/0", busybox("migrate", readFirst)),
			add("/metadata/annotations/latchkey.dev~1init-containers", "migrate"))
	}))
	pods := map[string][]string{
		"mesh-first": {"istio-proxy", "latchkey-agent"},
		"mesh-last":  {"istio-proxy", "latchkey-agent"},
		"migrated":   {"latchkey-agent", "migrate"},
	}
	for name := range pods {
		s.Create(pod{name: name, annotations: wants(s.Name), script: readFirst + stay}.String())
	}
	for name, inits := range pods {
		p := s.WaitPod(name, "ready", harness.Ready)
		readers := []string{"app", "worker"}
		if name == "migrated" {
			readers = append(readers, "migrate")
		}
		for _, container := range readers {
			wantLog(s, name, container)
		}
		wantInjectedOnce(t, p, readers...)
		if got := containerNames(p.Spec.InitContainers); !slices.Equal(got, inits) {
			t.Errorf("%s: the init containers are %q, want %q", name, got, inits)
		}
		agent := p.Spec.InitContainers[slices.IndexFunc(p.Spec.InitContainers, isAgent)]
		if got := agent.Resources.Limits.Memory().String(); got != "64Mi" {
			t.Errorf("%s: the agent's memory limit is %s, want the LimitRange's 64Mi", name, got)
		}
	}
}

// While the injector is upgraded, the API server may ask one replica first and
// another one again, with another agent and other defaults. The pod keeps the
// agent that it got, and what comes later fits that one.
func TestReinvocationByAReplicaOfAnotherVersion(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	first := replica(t, nil)
	newer := replica(t, map[string]any{
		"agentImage": "latchkey-agent:next", "imagePullPolicy": "Never",
		"defaults": map[string]any{
			"mountPath": "/elsewhere", "refresh": "7m",
			"resources": map[string]any{"requests": map[string]any{"cpu": "7m", "memory": "48Mi"}},
		},
	})
	var again atomic.Int32
	addWebhook(t, s, "aa-replicas", admissionregistrationv1.IfNeededReinvocationPolicy, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !bytes.Contains(body, []byte(`"name":"latchkey-agent"`)) {
			first.ServeHTTP(w, r)
			return
		}
		again.Add(1)
		newer.ServeHTTP(w, r)
	}))
	addWebhook(t, s, "zz-late", admissionregistrationv1.NeverReinvocationPolicy, patching(func(*corev1.Pod) []operation {
		return []operation{
			add("/metadata/annotations/latchkey.dev~1containers", "app,worker"),
			add("/spec/containers/-", busybox("worker", readFirst+stay)),
		}
	}))
	before := again.Load()
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	if again.Load() == before {
		t.Error("the newer replica was not asked: it was no reinvocation")
	}
	p := s.WaitPod("app", "ready", harness.Ready)
	wantLog(s, "app", "app")
	wantLog(s, "app", "worker")
	wantInjectedOnce(t, p, "app", "worker")
	agent := p.Spec.InitContainers[0]
	if agent.Image == "latchkey-agent:next" || agent.Resources.Requests.Memory().String() == "48Mi" {
		t.Errorf("the agent was changed to image %s with memory request %s, want it kept as the first replica made it",
			agent.Image, agent.Resources.Requests.Memory())
	}
}

// wantInjectedOnce checks that each of our parts is in the pod once, and that
// of its other containers the named ones, and no more, see the files.
func wantInjectedOnce(t *testing.T, p *corev1.Pod, readers ...string) {
	t.Helper()
	seen := make(map[string]int)
	for _, v := range p.Spec.Volumes {
		if strings.HasPrefix(v.Name, "latchkey-") {
			seen["volume "+v.Name]++
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if isAgent(c) {
			seen["agent"]++
			continue
		}
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(m.Name, "latchkey-") {
				seen["mount in "+c.Name]++
			}
		}
	}
	want := map[string]int{"agent": 1, "volume latchkey-identity": 1, "volume latchkey-secrets": 1}
	for _, name := range readers {
		want["mount in "+name] = 1
	}
	if !maps.Equal(seen, want) {
		t.Errorf("pod %s has %v of ours, want %v", p.Name, seen, want)
	}
}

func isAgent(c corev1.Container) bool { return c.Name == "latchkey-agent" }

func containerNames(containers []corev1.Container) []string {
	var names []string
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return names
}

// save writes a review as a golden case, without what is only this cluster's.
func save(t *testing.T, name string, review []byte) {
	t.Helper()
	dir := filepath.Join(harness.Checkout(), "internal/mutate/testdata", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, review, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	if err := os.WriteFile(filepath.Join(dir, "review.json"), pretty.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

type call struct {
	review   []byte
	response *admissionv1.AdmissionResponse
}

// recordInjector puts a recorder between the API server and the injector. The
// returned function takes it out again and returns what it saw of real pods.
func recordInjector(t *testing.T) func() []call {
	t.Helper()
	var mu sync.Mutex
	var calls []call
	var used bool
	recorder := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := callInjector(r.Context(), body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		used = true
		if !bytes.Contains(body, []byte(`"dryRun":true`)) {
			calls = append(calls, call{body, answer.Response})
		}
		json.NewEncoder(w).Encode(answer)
	}))
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	config, err := client.Get(t.Context(), harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() { reinstallWebhook(t) })
	t.Cleanup(restore)
	config.Webhooks[0].ClientConfig = recorder
	if _, err := client.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitDryRun(t, "default", "the recorder to be called", func(string) bool {
		mu.Lock()
		defer mu.Unlock()
		return used
	})
	return func() []call {
		restore()
		mu.Lock()
		defer mu.Unlock()
		return calls
	}
}
