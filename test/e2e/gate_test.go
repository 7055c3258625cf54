package e2e

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// gated is an app whose first line says whether its file was there.
const gated = `if [ -e /vault/secrets/app.env ]; then echo with its file; else echo WITHOUT its file; fi` + stay

// wantGated checks that the app ran once and had its file.
func wantGated(s *harness.Space, name string) {
	s.Helper()
	p := s.WaitPod(name, "ready", harness.Ready)
	if got := s.WaitLog(name, "app", " its file\n"); got != "with its file\n" {
		s.Errorf("the app of %s started %q", name, got)
	}
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		s.Errorf("the app of %s was restarted %d times", name, n)
	}
}

func TestWrongRoleIsExplained(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	s.ServiceAccount("app")
	const role = "no-such-role"
	who := []string{`role "` + role + `"`, "auth/kubernetes", s.Name + "/app", `aud "vault"`}
	s.Create(pod{name: "app", script: gated, annotations: `latchkey.dev/inject: "true"
latchkey.dev/role: ` + role + `
latchkey.dev/log-level: debug
latchkey.dev/start-timeout: 15s
latchkey.dev/files: '[{path: app.env, secret: kv/app, format: env}]'
`}.String())

	s.WaitEvent("Pod", "app", "Unhealthy", append(who, "Readiness probe failed")...)
	p := s.WaitPod("app", "without an app, its agent's end explained", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return a != nil && a.LastTerminationState.Terminated != nil
	})
	end := harness.Agent(p).LastTerminationState.Terminated
	if end.ExitCode != 1 {
		t.Errorf("the agent's exit code is %d, want 1", end.ExitCode)
	}
	if n := strings.Count(strings.TrimSuffix(end.Message, "\n"), "\n"); n != 0 {
		t.Errorf("the termination message has %d line breaks, want one line:\n%s", n, end.Message)
	}
	for _, part := range who {
		if !strings.Contains(end.Message, part) {
			t.Errorf("the termination message lacks %q:\n%s", part, end.Message)
		}
	}
	if harness.Started(p) {
		t.Error("the app started without its file")
	}
	t.Logf("termination message: %s", end.Message)
}

func TestLogsAndDeletionWhileWaiting(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	s.ServiceAccount("app")
	s.Create(pod{name: "app", script: gated, annotations: `latchkey.dev/inject: "true"
latchkey.dev/role: no-such-role
latchkey.dev/log-level: debug
latchkey.dev/files: '[{path: app.env, secret: kv/app, format: env}]'
`}.String())
	// The kubelet refuses logs and puts deletion off for as long as a hook runs.
	p := s.WaitPod("app", "held back by the guard", func(p *corev1.Pod) bool {
		return harness.AgentRunning(p) && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	s.WaitLog("app", "latchkey-agent", "no-such-role")
	if err := s.Kube.CoreV1().Pods(s.Name).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.WaitGone(20*time.Second, "app")
}

// These tests take Vault or the kubelet from everybody, so they run alone.

func TestVaultDownAtStart(t *testing.T) {
	s := aSpace(t)
	up := stopVault(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: gated}.String())
	s.WaitPod("app", "waiting with a running agent", harness.AgentRunning)
	stillHeld(s, 20*time.Second, "app")
	if log := s.Logs("app", "latchkey-agent"); !strings.Contains(log, suite.VaultAddr) {
		t.Errorf("the agent's log does not name the server that it cannot reach:\n%s", log)
	}
	up()
	wantGated(s, "app")
}

// A kubelet that comes back finds a running container whose hook it has
// forgotten: the guard alone holds the app back.
func TestKubeletKilledWhileVaultIsDown(t *testing.T) {
	s := aSpace(t)
	up := stopVault(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: gated}.String())
	// The hook has just begun: the agent's status says nothing before its end.
	s.WaitEvent("Pod", "app", "Started")
	if err := suite.KillKubelet(); err != nil {
		t.Fatal(err)
	}
	if err := suite.StartKubelet(); err != nil {
		t.Fatal(err)
	}
	stillHeld(s, 20*time.Second, "app")
	up()
	wantGated(s, "app")
}

// stillHeld watches for a while that no app of these pods starts.
func stillHeld(s *harness.Space, while time.Duration, names ...string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), while)
	defer cancel()
	w, err := s.Kube.CoreV1().Pods(s.Name).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, open := <-w.ResultChan():
			if !open {
				if ctx.Err() == nil {
					s.Fatal("the watch of the held pods ended early")
				}
				return
			}
			if p, ok := e.Object.(*corev1.Pod); ok && slices.Contains(names, p.Name) && harness.Started(p) {
				s.Errorf("the app of %s started before its file was published; it printed: %s", p.Name, s.Logs(p.Name, "app"))
			}
		}
	}
}

// stopVault stops Vault and returns the function that starts it again, which
// also runs when the test ends.
func stopVault(t *testing.T) (start func()) {
	t.Helper()
	return without(t, func(ctx context.Context, replicas int32) error {
		return suite.ScaleStatefulSet(ctx, "vault", "vault", replicas)
	}, 1)
}

// without scales something to zero and returns the function that scales it back
// and waits until it serves. The test's end calls it too.
func without(t *testing.T, scale func(context.Context, int32) error, back int32) (restore func()) {
	t.Helper()
	restore = sync.OnceFunc(func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := scale(ctx, back); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restore)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := scale(ctx, 0); err != nil {
		t.Fatal(err)
	}
	return restore
}
