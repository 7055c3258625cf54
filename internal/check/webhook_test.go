package check

import (
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// installed is the webhook configuration as the chart makes it.
func installed(bundle []byte) *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "latchkey-injector"},
		Webhooks: []admissionv1.MutatingWebhook{{
			Name:            "injector.latchkey.dev",
			FailurePolicy:   new(admissionv1.Fail),
			MatchConditions: []admissionv1.MatchCondition{{Name: "annotated", Expression: "name.startsWith('latchkey.dev/')"}},
			ClientConfig: admissionv1.WebhookClientConfig{CABundle: bundle, Service: &admissionv1.ServiceReference{
				Namespace: "latchkey", Name: "latchkey-injector", Path: new("/mutate"),
			}},
		}},
	}
}

func TestWebhookConfiguration(t *testing.T) {
	ca := newAuthority(t, "ca")
	now := time.Now()
	for _, c := range []struct {
		name  string
		spoil func(*admissionv1.MutatingWebhookConfiguration)
		want  string
	}{
		{"as installed", func(*admissionv1.MutatingWebhookConfiguration) {}, "ok    : latchkey-injector calls Service latchkey/latchkey-injector for annotated pods alone"},
		{"other webhook", func(m *admissionv1.MutatingWebhookConfiguration) { m.Webhooks[0].Name = "other" }, "FAIL  : MutatingWebhookConfiguration latchkey-injector has no webhook injector.latchkey.dev (install"},
		{"URL", func(m *admissionv1.MutatingWebhookConfiguration) { m.Webhooks[0].ClientConfig.Service = nil }, "FAIL  : it does not call a Service (install the chart again)"},
		{"namespace", func(m *admissionv1.MutatingWebhookConfiguration) {
			m.Webhooks[0].ClientConfig.Service.Namespace = "other"
		},
			"FAIL  : it calls Service other/latchkey-injector, not latchkey/latchkey-injector (give the namespace of the chart with --injector-namespace"},
		{"path", func(m *admissionv1.MutatingWebhookConfiguration) { m.Webhooks[0].ClientConfig.Service.Path = nil }, "FAIL  : it does not call the path /mutate"},
		{"Ignore", func(m *admissionv1.MutatingWebhookConfiguration) {
			m.Webhooks[0].FailurePolicy = new(admissionv1.Ignore)
		}, "FAIL  : failurePolicy is not Fail: while the injector is down"},
		{"every pod", func(m *admissionv1.MutatingWebhookConfiguration) { m.Webhooks[0].MatchConditions = nil }, "FAIL  : matchConditions do not ask for annotations latchkey.dev/*"},
		{"no caBundle", func(m *admissionv1.MutatingWebhookConfiguration) { m.Webhooks[0].ClientConfig.CABundle = nil }, "FAIL  : caBundle is empty: the API server trusts no certificate of the injector (it is the CA of the injector's certificate"},
		{"no caBundle of cert-manager", func(m *admissionv1.MutatingWebhookConfiguration) {
			m.Webhooks[0].ClientConfig.CABundle = nil
			m.Annotations = map[string]string{"cert-manager.io/inject-ca-from": "latchkey/latchkey-injector"}
		}, "FAIL  : caBundle is empty: the API server trusts no certificate of the injector (cert-manager's cainjector fills it: is that running, and is Certificate latchkey/latchkey-injector ready?)"},
		{"no PEM", func(m *admissionv1.MutatingWebhookConfiguration) {
			m.Webhooks[0].ClientConfig.CABundle = []byte("x")
		}, "FAIL  : caBundle: holds no certificate in PEM"},
		{"expired", func(m *admissionv1.MutatingWebhookConfiguration) {
			m.Webhooks[0].ClientConfig.CABundle = newAuthority(t, "old", until(now.Add(-time.Hour))).pem()
		}, "FAIL  : every certificate in caBundle has expired, the last at "},
	} {
		m := installed(ca.pem())
		c.spoil(m)
		e := &env{kube: fake.NewClientset(m), Options: Options{InjectorNamespace: "latchkey"}}
		want(t, c.name, webhookConfiguration(t.Context(), e), c.want)
	}
	e := &env{kube: fake.NewClientset(), Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "none", webhookConfiguration(t.Context(), e), "FAIL  : there is no MutatingWebhookConfiguration latchkey-injector: nothing is injected (install the chart)")
}

func TestWebhookEndpoints(t *testing.T) {
	labels := map[string]string{"app.kubernetes.io/name": "latchkey-injector"}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "latchkey", Name: "latchkey-injector"}, Spec: corev1.ServiceSpec{Selector: labels}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "latchkey", Name: "s", Labels: map[string]string{"kubernetes.io/service-name": "latchkey-injector"}},
		Ports:      []discoveryv1.EndpointPort{{Port: new(int32(8443))}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
			{Addresses: []string{"fd00::3"}},
		},
	}
	pod := func(name string, status corev1.PodStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "latchkey", Name: name, Labels: labels}, Status: status}
	}
	pulling := pod("a", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "injector", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off pulling image \"x\""}}}}})
	crashing := pod("b", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "injector",
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no config"}}}}})
	pending := pod("c", corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes"}}})

	e := &env{kube: fake.NewClientset(service, slice, pulling), Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "ready", webhookEndpoints(t.Context(), e), "ok    : Service latchkey/latchkey-injector has 2 ready endpoints")
	if len(e.addresses) != 2 || e.addresses[0] != "10.0.0.1:8443" || e.addresses[1] != "[fd00::3]:8443" || len(e.replicas) != 1 {
		t.Errorf("found %q and %d replicas", e.addresses, len(e.replicas))
	}

	e = &env{kube: fake.NewClientset(service, pulling, crashing, pending), Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "not ready", webhookEndpoints(t.Context(), e), "FAIL  : Service latchkey/latchkey-injector has no ready endpoint, so annotated pods are refused: ",
		`a: container injector waits: ImagePullBackOff Back-off pulling image "x"`, "b: container injector has ended with exit code 1, Error no config", "c: Unschedulable 0/1 nodes")

	e = &env{kube: fake.NewClientset(service), Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "no pods", webhookEndpoints(t.Context(), e), "FAIL ", "it has no pods (is the Deployment scaled to 0")
	e = &env{kube: fake.NewClientset(), Options: Options{InjectorNamespace: "elsewhere"}}
	want(t, "no Service", webhookEndpoints(t.Context(), e), "FAIL ", "there is no such Service", "--injector-namespace")
}
