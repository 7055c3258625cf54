package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// The agent is stopped before each change that it makes to the volume until its
// first files are out, longer than the hook waits and the kubelet takes to try
// again. Whatever it has done by then, the app must not start; when the agent
// goes on, the app starts with its file.
func TestAgentStoppedAtEachStep(t *testing.T) {
	t.Parallel()
	const pods = 32 // more than there are steps: the last ones are never stopped
	image := stoppableAgent(t)
	s := aSpace(t)
	injected := s.DryRun(pod{name: "app", annotations: wants(s.Name), script: gated}.String())
	name := func(step int) string { return fmt.Sprintf("stopped-at-%d", step) }
	for step := range pods {
		u := injected.DeepCopy()
		u.SetName(name(step))
		u.SetUID("")
		u.SetResourceVersion("")
		u.SetCreationTimestamp(metav1.Time{})
		u.SetManagedFields(nil)
		setAgent(t, u, image, step)
		s.Create(toJSON(s, u)) // is YAML too
	}

	var stopped []string
	for step := range pods {
		p := s.WaitPod(name(step), "one whose agent runs", harness.AgentRunning)
		log := s.Logs(p.Name, "latchkey-agent")
		_, at, found := strings.Cut(log, "stopped before: ")
		if !found {
			break // there is no such step
		}
		at, _, _ = strings.Cut(at, "\n")
		t.Logf("%s: before %s", p.Name, at)
		stopped = append(stopped, p.Name)
	}
	if len(stopped) < 10 || len(stopped) == pods {
		t.Fatalf("the agent was stopped at %d steps, want at least 10 and less than %d: all of them", len(stopped), pods)
	}
	stillHeld(s, 20*time.Second, stopped...)
	for _, name := range stopped {
		p, err := s.Kube.CoreV1().Pods(s.Name).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.Signal(p, "latchkey-agent", syscall.SIGUSR1)
	}
	for step := range pods {
		wantGated(s, name(step))
	}
}

// setAgent gives an injected pod another agent, which stops at a step.
func setAgent(t *testing.T, u *unstructured.Unstructured, image string, step int) {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(u.Object, "spec", "initContainers")
	if err != nil || len(containers) != 1 {
		t.Fatalf("the injected pod has init containers %v (%v)", containers, err)
	}
	agent := containers[0].(map[string]any)
	agent["image"] = image
	agent["env"] = append(agent["env"].([]any), map[string]any{"name": "STOP_AT", "value": fmt.Sprint(step)})
	if err := unstructured.SetNestedSlice(u.Object, containers, "spec", "initContainers"); err != nil {
		t.Fatal(err)
	}
}

// stoppableAgent builds the agent that can be stopped and loads its image.
func stoppableAgent(t *testing.T) (image string) {
	t.Helper()
	const name = "latchkey-agent:stoppable"
	dir := t.TempDir()
	binary, tar := filepath.Join(dir, "agent"), filepath.Join(dir, "agent.tar")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"go", "build", "-tags", "stoppable", "-ldflags", "-s -w", "-o", binary, "./cmd/agent"},
		{suite.Tool("images"), "-o", tar, "-level", "0", "-name", name, "-entrypoint", "/agent", "-user", "65532:65532", binary + "=/agent"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir, cmd.Env = harness.Checkout(), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("running %s: %v\n%s", args, err, out)
		}
	}
	box, err := cluster.DefaultBox()
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Load(ctx, tar); err != nil {
		t.Fatal(err)
	}
	return name
}
