package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// Who applies a pod with five mistakes is told all of them at once, each with
// its annotation, its value and what is allowed.
func TestEveryMistakeIsShown(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	stdout, stderr, err := s.KubectlOutput(pod{name: "app", script: "true", annotations: `latchkey.dev/inject: "true"
latchkey.dev/role: no such/role
latchkey.dev/refesh: 5m
latchkey.dev/start-timeout: soon
latchkey.dev/containers: ap
latchkey.dev/files: |
  - {path: ../etc/passwd, secret: kv/app, format: env}
`}.String(), "apply", "-f", "-")
	if err == nil {
		t.Fatalf("kubectl apply took the pod: %s", stdout)
	}
	const want = `Error from server (Forbidden): error when creating "STDIN": admission webhook "injector.latchkey.dev" denied the request: 5 problems:
  latchkey.dev/containers: "ap" is unknown (did you mean "app"?)
  latchkey.dev/files: entry 1: path "../etc/passwd" is not allowed (a relative path without "..", such as "tls/ca.crt")
  latchkey.dev/refesh: unknown annotation (did you mean "refresh"?)
  latchkey.dev/role: "no such/role" (a role's name: letters, digits, "_", and between them "-" and ".")
  latchkey.dev/start-timeout: "soon" (a number with a unit, such as "90s" or "5m", at least 1s)
`
	if stderr != want {
		t.Errorf("kubectl printed\n%s\nwant\n%s", stderr, want)
	}
	t.Logf("kubectl printed:\n%s", stderr)
}

// What will not work but is the author's to decide is said, and done.
func TestWarningsAreShown(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	annotations := strings.Replace(wants(s.Name), "format: env}", `format: env, mode: "0400"}`, 1)
	stdout, stderr, err := s.KubectlOutput(pod{
		name: "app", annotations: annotations, script: "true", spec: "securityContext: {runAsUser: 1000}", app: "securityContext: {runAsUser: 1001}",
	}.String(), "apply", "-f", "-")
	if err != nil || stdout != "pod/app created\n" {
		t.Fatalf("kubectl apply: %v, printed %q\n%s", err, stdout, stderr)
	}
	const want = `Warning: latchkey.dev/files: container "app" runs as user 1001 and cannot read "app.env" with mode 0400 (0444 is the tightest that every container can read)
`
	if stderr != want {
		t.Errorf("kubectl printed\n%s\nwant\n%s", stderr, want)
	}
}

// A debugger in a running pod works, and sees nothing of what the agent brought.
func TestDebuggerSeesNoSecrets(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	s.WaitPod("app", "ready", harness.Ready)
	if _, stderr, err := s.KubectlOutput("", "debug", "app", "--profile=general", "--image=busybox:box", "--image-pull-policy=Never", "--container=debugger",
		"--", "sh", "-c", "ls /; cat /proc/mounts; echo looked"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	s.WaitPod("app", "one whose debugger ran", debugged)
	seen := s.WaitLog("app", "debugger", "looked\n")
	for _, ours := range []string{"latchkey", "/vault", "serviceaccount"} {
		if strings.Contains(seen, ours) {
			t.Errorf("the debugger sees %q:\n%s", ours, seen)
		}
	}
	if p := s.WaitPod("app", "ready", harness.Ready); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the app was restarted")
	}
}

// debugged reports whether an ephemeral container has run.
func debugged(p *corev1.Pod) bool {
	return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Terminated != nil
}
