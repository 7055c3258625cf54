package e2e

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// With gate hook+probe the kubelet waits for the agent instead of trying in
// vain to start the app, however long Vault takes; and the agent still gives up
// in its own words.
func TestStartupProbeHoldsTheAppBack(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	connect(t, s, map[string]any{
		"defaults": map[string]any{"gate": "hook+probe"},
		// Until the CA is there the agent is as helpless as without its Vault.
		"connections": map[string]any{"default": map[string]any{"address": suite.VaultAddr, "caConfigMap": map[string]any{"name": "vault-ca"}}},
	})
	s.Create(pod{name: "app", annotations: wants(s.Name) + "latchkey.dev/start-timeout: 8s\n", script: gated}.String())
	s.WaitEvent("Pod", "app", "Unhealthy", "Startup probe failed: reading the CA", "vault-ca/configmap/vault-ca/ca.crt")
	p := s.WaitPod("app", "its agent given up", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return a != nil && a.LastTerminationState.Terminated != nil
	})
	if end := harness.Agent(p).LastTerminationState.Terminated; end.ExitCode != 1 || !strings.Contains(end.Message, "reading the CA") {
		t.Errorf("the agent ended with code %d and the words %q, want 1 and the reason", end.ExitCode, end.Message)
	}

	setCA(s, "vault-ca", "ca.crt", suite.VaultCA)
	hasten(s, "app", "ready", harness.Ready)
	wantGated(s, "app")
	events, err := s.Kube.CoreV1().Events(s.Name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(events.Items, func(e corev1.Event) bool {
		return e.Reason == "Failed" && strings.Contains(e.InvolvedObject.FieldPath, "{app}")
	}); i >= 0 {
		t.Errorf("the kubelet tried to start the app before its files were there: %s", events.Items[i].Message)
	}
}
