package e2e

import (
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// What the operator sets for all pods holds on the kubelet: a startup probe as
// a second gate, which neither kills an agent that waits nor lets the app start
// without its files, and for pods that ask for it a lifecycle and a place of
// their own.
func TestOperatorsDefaults(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	addWebhook(t, s, "aa-defaults", admissionregistrationv1.NeverReinvocationPolicy, replica(t, map[string]any{
		"defaults": map[string]any{"gate": "hook+probe", "mountPath": "/of/the/operator", "refresh": "5s"},
	}))
	const elsewhere = "/of/the/operator/"
	moved := func(script string) string { return strings.ReplaceAll(script, "/vault/secrets/", elsewhere) }
	late := strings.Replace(wants(s.Name), "/app, format", "/late, format", 1)
	s.Create(pod{name: "waits", annotations: late, script: moved(gated)}.String())
	s.Create(pod{name: "init", annotations: wants(s.Name) + "latchkey.dev/lifecycle: init\n", script: moved(readFirst) + stay}.String())
	s.Create(pod{name: "stated", annotations: wants(s.Name) + "latchkey.dev/mount-path: /vault/secrets\n", script: readFirst + stay}.String())

	s.WaitPod("waits", "one with a running agent that has not started", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return a != nil && a.State.Running != nil && a.Started != nil && !*a.Started
	})
	stillHeld(s, 6*time.Second, "waits")
	s.Secret("late", map[string]any{"CAME": changed})
	wantGated(s, "waits")
	p := s.WaitPod("waits", "ready", harness.Ready)
	if a := harness.Agent(p); a.RestartCount != 0 {
		t.Errorf("the agent was restarted %d times while it waited", a.RestartCount)
	}
	for _, name := range []string{"init", "stated"} {
		s.WaitPod(name, "ready", harness.Ready)
		wantLog(s, name)
	}
}
