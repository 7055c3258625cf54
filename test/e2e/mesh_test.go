package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// With a service mesh there is no network before its proxy runs. The agent is
// started behind it and has its files at once, whether the mesh's webhook came
// before ours or later.
func TestAgentStartsBehindTheMeshProxy(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	// Which of the webhooks is the mesh's depends on the pod's name.
	addWebhook(t, s, "aa-mesh", admissionregistrationv1.IfNeededReinvocationPolicy, mesh("mesh-first-", "istio-proxy"))
	addWebhook(t, s, "zz-mesh", admissionregistrationv1.IfNeededReinvocationPolicy, mesh("mesh-last-", "istio-proxy"))
	addWebhook(t, s, "zz-other", admissionregistrationv1.IfNeededReinvocationPolicy, mesh("unknown-mesh", "other-proxy"))
	s.Create(pod{name: "unknown-mesh", annotations: wants(s.Name), script: gated}.String())
	var meshed []string
	for _, order := range []string{"mesh-first-", "mesh-last-"} {
		for _, lifecycle := range []string{"native", "init", "sidecar"} {
			script := gated
			if lifecycle == "sidecar" {
				script = untilThere + gated
			}
			name := order + lifecycle
			s.Create(pod{name: name, annotations: wants(s.Name) + "latchkey.dev/lifecycle: " + lifecycle + "\n", script: script}.String())
			meshed = append(meshed, name)
		}
	}
	for _, name := range meshed {
		wantGated(s, name)
		p := s.WaitPod(name, "ready", harness.Ready)
		if got, want := containerNames(p.Spec.InitContainers), []string{"istio-init", "istio-proxy", "latchkey-agent"}; !slices.Equal(got, want) {
			t.Errorf("%s: the init containers are %q, want %q", name, got, want)
		}
		if log := s.Logs(name, "latchkey-agent"); strings.Contains(log, `"WARN"`) || strings.Contains(log, `"ERROR"`) {
			t.Errorf("%s: the agent had to try more than once:\n%s", name, log)
		}
	}

	// A proxy that is not known as one shows what it would be like otherwise.
	wantGated(s, "unknown-mesh")
	if log := s.Logs("unknown-mesh", "latchkey-agent"); !strings.Contains(log, `"WARN"`) {
		t.Errorf("an agent before the proxy had a network: the stand-in holds nothing back\n%s", log)
	}
}

// mesh stands in for a mesh's webhook: to the pods of a name it adds a container in front
// of all that cuts the pod off from all Services, and one behind all, which
// lets it through for as long as it runs.
func mesh(pods, proxyName string) http.Handler {
	network := map[string]any{"runAsUser": 0, "capabilities": map[string]any{"add": []string{"NET_ADMIN"}}}
	return patching(func(p *corev1.Pod) []operation {
		cut := busybox("istio-init", "ip route add prohibit 10.96.0.0/16")
		proxy := busybox(proxyName, "ip route del prohibit 10.96.0.0/16"+stay)
		cut["securityContext"], proxy["securityContext"] = network, network
		proxy["restartPolicy"] = "Always"
		proxy["startupProbe"] = map[string]any{
			"periodSeconds": 1,
			"exec":          map[string]any{"command": []string{"sh", "-c", "! ip route | grep -q ^prohibit"}},
		}
		has := slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == proxyName })
		switch {
		case !strings.HasPrefix(p.Name, pods) || has:
			return nil
		case len(p.Spec.InitContainers) == 0:
			return []operation{add("/spec/initContainers", []any{cut, proxy})}
		}
		return []operation{add("/spec/initContainers/0", cut), add("/spec/initContainers/-", proxy)}
	})
}
