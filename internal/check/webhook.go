package check

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

func webhookConfiguration(ctx context.Context, e *env) []Result {
	found, err := e.kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, injectorName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fail("install the chart", "there is no MutatingWebhookConfiguration %s: nothing is injected", injectorName)
	}
	if err != nil {
		return unread(err, "get", "mutatingwebhookconfigurations "+injectorName)
	}
	for i := range found.Webhooks {
		if found.Webhooks[i].Name == webhookName {
			e.webhook = &found.Webhooks[i]
		}
	}
	if e.webhook == nil {
		return fail("install the chart again", "MutatingWebhookConfiguration %s has no webhook %s", injectorName, webhookName)
	}
	if bad := judgeWebhook(found, e.webhook, e.InjectorNamespace, time.Now()); len(bad) > 0 {
		return bad
	}
	return ok("%s calls Service %s/%s for annotated pods alone, and refuses them without an answer", injectorName, e.InjectorNamespace, injectorName)
}

// judgeWebhook compares the webhook with what the chart writes.
func judgeWebhook(in *admissionv1.MutatingWebhookConfiguration, hook *admissionv1.MutatingWebhook, namespace string, now time.Time) (bad []Result) {
	add := func(remedy, format string, args ...any) { bad = append(bad, fail(remedy, format, args...)...) }
	const again = "install the chart again"
	if s := hook.ClientConfig.Service; s == nil {
		add(again, "it does not call a Service")
	} else {
		if s.Namespace != namespace || s.Name != injectorName {
			add("give the namespace of the chart with --injector-namespace, or install the chart again", "it calls Service %s/%s, not %s/%s", s.Namespace, s.Name, namespace, injectorName)
		}
		if s.Path == nil || *s.Path != webhookPath {
			add(again, "it does not call the path %s", webhookPath)
		}
	}
	if hook.FailurePolicy == nil || *hook.FailurePolicy != admissionv1.Fail {
		add(again, "failurePolicy is not Fail: while the injector is down, pods start without their secrets")
	}
	ours := false
	for _, c := range hook.MatchConditions {
		ours = ours || strings.Contains(c.Expression, mutate.Prefix)
	}
	if !ours {
		add(again, "matchConditions do not ask for annotations %s*: every pod depends on the injector", mutate.Prefix)
	}
	bundle := hook.ClientConfig.CABundle
	certs, err := parseCertificates(bundle)
	switch filler := bundleRemedy(in.Annotations); {
	case len(bundle) == 0:
		add(filler, "caBundle is empty: the API server trusts no certificate of the injector")
	case err != nil:
		add(filler, "caBundle: %v", err)
	case !anyValid(certs, now):
		add(filler, "every certificate in caBundle has expired, the last at %s", stamp(latest(certs)))
	}
	return bad
}

// bundleRemedy says who has to fill caBundle.
func bundleRemedy(annotations map[string]string) string {
	if from := annotations["cert-manager.io/inject-ca-from"]; from != "" {
		return fmt.Sprintf("cert-manager's cainjector fills it: is that running, and is Certificate %s ready?", from)
	}
	return "it is the CA of the injector's certificate: give it to the chart as certs.caBundle; where the injector manages its own, its log says why it could not"
}

func webhookEndpoints(ctx context.Context, e *env) []Result {
	slices, err := e.kube.DiscoveryV1().EndpointSlices(e.InjectorNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + injectorName,
	})
	if err != nil {
		return unread(err, "list", "endpointslices in namespace "+e.InjectorNamespace)
	}
	e.addresses = readyAddresses(slices.Items)
	e.replicas, e.replicasErr = e.injectorPods(ctx)
	if n := len(e.addresses); n > 0 {
		return ok("Service %s/%s has %s", e.InjectorNamespace, injectorName, plural(n, "ready endpoint"))
	}
	var why string
	switch err := e.replicasErr; {
	case apierrors.IsForbidden(err):
		why = fmt.Sprintf("which pods there are is not known, since you may not list pods in namespace %s", e.InjectorNamespace)
	case err != nil:
		why = err.Error()
	default:
		why = describePods(e.replicas)
	}
	return fail(fmt.Sprintf("kubectl -n %s describe deployment,pods says more", e.InjectorNamespace),
		"Service %s/%s has no ready endpoint, so annotated pods are refused: %s", e.InjectorNamespace, injectorName, why)
}

// readyAddresses are the endpoints that a Service leads to, as host:port.
func readyAddresses(slices []discoveryv1.EndpointSlice) (addresses []string) {
	for _, slice := range slices {
		port := 0
		for _, p := range slice.Ports {
			if p.Port != nil {
				port = int(*p.Port)
			}
		}
		for _, endpoint := range slice.Endpoints {
			// No answer means ready (discovery/v1).
			if ready := endpoint.Conditions.Ready; ready != nil && !*ready {
				continue
			}
			for _, address := range endpoint.Addresses {
				addresses = append(addresses, net.JoinHostPort(address, strconv.Itoa(port)))
			}
		}
	}
	return addresses
}

// injectorPods are the pods that the injector's Service selects.
func (e *env) injectorPods(ctx context.Context) ([]corev1.Pod, error) {
	service, err := e.kube.CoreV1().Services(e.InjectorNamespace).Get(ctx, injectorName, metav1.GetOptions{})
	selector := map[string]string{"app.kubernetes.io/name": injectorName}
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no such Service: install the chart there, or name its namespace with --injector-namespace")
	case err == nil:
		selector = service.Spec.Selector
	}
	list, err := e.kube.CoreV1().Pods(e.InjectorNamespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, fmt.Errorf("listing its pods: %w", err)
	}
	return list.Items, nil
}

// describePods says why pods are not ready.
func describePods(pods []corev1.Pod) string {
	if len(pods) == 0 {
		return "it has no pods (is the Deployment scaled to 0, or are its pods refused?)"
	}
	const most = 3
	var told []string
	for i := range pods[:min(len(pods), most)] {
		told = append(told, pods[i].Name+": "+notReady(&pods[i]))
	}
	if more := len(pods) - most; more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// notReady says why a pod is not ready, in the kubelet's and scheduler's words.
func notReady(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "is being deleted"
	}
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		ended := c.State.Terminated
		if ended == nil {
			ended = c.LastTerminationState.Terminated
		}
		switch waiting := c.State.Waiting; {
		case c.Ready:
		case ended != nil:
			return fmt.Sprintf("container %s has ended with exit code %d, %s %s", c.Name, ended.ExitCode, ended.Reason, ended.Message)
		case waiting != nil:
			return fmt.Sprintf("container %s waits: %s %s", c.Name, waiting.Reason, waiting.Message)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" && c.Type != corev1.PodInitialized {
			return fmt.Sprintf("%s %s", c.Reason, c.Message)
		}
	}
	return fmt.Sprintf("is %s and not ready", p.Status.Phase)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func anyValid(certs []*x509.Certificate, now time.Time) bool { return now.Before(latest(certs)) }

// latest is when the last of the certificates expires.
func latest(certs []*x509.Certificate) (end time.Time) {
	for _, c := range certs {
		if c.NotAfter.After(end) {
			end = c.NotAfter
		}
	}
	return end
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
