package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// A namespace that bounds what containers use takes annotated pods where the
// pod's author, or the operator for all pods, says what the agent uses.
func TestAgentFitsQuotasAndLimits(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(`
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec:
  hard: {requests.cpu: "2", requests.memory: 1Gi, limits.cpu: "2", limits.memory: 1Gi, pods: "5"}
`)
	s.Create(`
apiVersion: v1
kind: LimitRange
metadata: {name: range}
spec:
  limits:
  - type: Container
    min: {cpu: 20m, memory: 24Mi}
    max: {cpu: "1", memory: 256Mi}
    default: {cpu: "1", memory: 256Mi}
    defaultRequest: {cpu: 20m, memory: 24Mi}
`)
	const states = "resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}"
	plain := pod{name: "app", annotations: wants(s.Name), script: readFirst + stay, app: states}
	_, err := suite.Create(t.Context(), s.Name, plain.String(), true)
	if err == nil || !strings.Contains(err.Error(), "minimum cpu usage per Container is 20m") {
		t.Errorf("an agent that asks for less than the least: %v, want it refused", err)
	}
	plain.name, plain.annotations = "stated", wants(s.Name)+`latchkey.dev/requests-cpu: 25m
latchkey.dev/requests-memory: 24Mi
latchkey.dev/limits-cpu: 250m
latchkey.dev/limits-memory: 48Mi
`
	s.Create(plain.String())

	addWebhook(t, s, "aa-replica", "Never", replica(t, map[string]any{"defaults": map[string]any{"resources": map[string]any{
		"requests": map[string]any{"cpu": "30m", "memory": "32Mi"}, "limits": map[string]any{"cpu": "300m", "memory": "64Mi"},
	}}}))
	plain.name, plain.annotations = "by-default", wants(s.Name)
	s.Create(plain.String())

	for name, want := range map[string][4]string{
		"stated":     {"25m", "24Mi", "250m", "48Mi"},
		"by-default": {"30m", "32Mi", "300m", "64Mi"},
	} {
		p := s.WaitPod(name, "ready", harness.Ready)
		wantLog(s, name)
		r := p.Spec.InitContainers[slices.IndexFunc(p.Spec.InitContainers, isAgent)].Resources
		if got := [4]string{r.Requests.Cpu().String(), r.Requests.Memory().String(), r.Limits.Cpu().String(), r.Limits.Memory().String()}; got != want {
			t.Errorf("%s: the agent's CPU and memory, asked for and at most, are %q, want %q", name, got, want)
		}
	}
}
