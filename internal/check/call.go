package check

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

func webhookCall(ctx context.Context, e *env) []Result {
	namespace := or(e.Namespace, "default")
	start := time.Now()
	got, err := e.kube.CoreV1().Pods(namespace).Create(ctx, e.probe(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return judgeCall(err, namespace, e.InjectorNamespace)
	}
	if !hasAgent(got) {
		return fail("does the webhook configuration's namespaceSelector leave the namespace out? The injector's own is never injected",
			"an annotated pod of namespace %s would be made without its agent", namespace)
	}
	return ok("the API server reaches the injector and trusts it: an annotated pod of namespace %s gets its agent (%d ms)", namespace, time.Since(start).Milliseconds())
}

// probe is a small annotated pod that the strictest namespace accepts.
func (e *env) probe() *corev1.Pod {
	annotations := map[string]string{
		mutate.Prefix + "inject": "true",
		mutate.Prefix + "files":  "[{path: check, template: check}]",
		mutate.Prefix + "role":   or(e.Role, "latchkey-check"), // a connection may have no template for one
	}
	if e.Connection != "" {
		annotations[mutate.Prefix+"connection"] = e.Connection
	}
	yes, no, user := true, false, int64(65532)
	little := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "latchkey-check-", Annotations: annotations},
		Spec: corev1.PodSpec{
			ServiceAccountName: or(e.ServiceAccount, "default"),
			RestartPolicy:      corev1.RestartPolicyNever,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   &yes,
				RunAsUser:      &user,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name:      "check",
				Image:     "latchkey-check", // never run
				Resources: corev1.ResourceRequirements{Requests: little, Limits: little},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no,
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}

func hasAgent(p *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == mutate.AgentName })
}

const (
	ourFailure = `failed calling webhook "` + webhookName + `"`
	ourDenial  = `admission webhook "` + webhookName + `" denied the request`
)

// judgeCall says why the API server did not make the pod. The texts are those
// of k8s.io/apiserver's webhook client, and of net/http and crypto/tls in it.
func judgeCall(err error, namespace, injectors string) []Result {
	text := err.Error()
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case has(ourDenial):
		_, why, _ := strings.Cut(text, ourDenial+": ")
		return fail("the operator's configuration decides what a namespace may use; --connection names another", "the API server reaches the injector, which refuses pods of namespace %s: %s", namespace, why)
	case !has(ourFailure):
		return judgeRefusal(err, namespace)
	}
	_, cause, _ := strings.Cut(text, ourFailure+": ")
	cause = calledURL.ReplaceAllString(cause, "")
	cause = strings.TrimPrefix(cause, "failed to call webhook: ")
	return fail(callRemedy(cause, injectors), "annotated pods are refused, since the API server cannot call the injector: %s", cause)
}

// calledURL is what net/http says first of a failed request.
var calledURL = regexp.MustCompile(`(Post|Get) "[^"]*": `)

const staleBundle = "caBundle in the webhook configuration is not the CA of the certificate that the injector serves: "

// callRemedy knows what the causes of a failed call mean for an injector in
// namespace. The first that fits counts: a handshake can be cut off by a timeout.
func callRemedy(cause, namespace string) string {
	for _, known := range []struct {
		parts  []string
		remedy string
	}{
		{[]string{"no endpoints available"}, "no injector is ready: kubectl -n " + namespace + " describe deployment,pods"},
		{[]string{"service \"" + injectorName + "\" not found"}, "install the chart again: the Service that the webhook configuration names is gone"},
		{[]string{"unknown authority", "certificate is not trusted", "failed to verify certificate: x509: invalid signature"},
			staleBundle + "with files give the chart the new certs.caBundle, with cert-manager look at cainjector, and where the injector manages its own look at its log"},
		{[]string{"unable to load root certificates", "unable to parse bytes as PEM"}, staleBundle + "it holds no PEM"},
		{[]string{"certificate has expired"}, "renew the injector's certificate, and see that clocks agree"},
		{[]string{"certificate is valid for", "not valid for any names", "doesn't contain any IP SANs", "relies on legacy Common Name"},
			"issue the certificate for " + injectorName + "." + namespace + ".svc"},
		{[]string{"connection refused"}, "the injector does not listen: is it starting, or does the Service's targetPort differ from its --listen?"},
		{[]string{"no route to host", "network is unreachable"}, "the API server has no way to the pods: see the network plugin, and on a control plane outside the cluster its tunnel"},
		{[]string{"context deadline exceeded", "Client.Timeout", "i/o timeout", "request canceled", "TLS handshake timeout"},
			"something drops the API server's packets: let it through to port 8443 of the nodes and pods (a firewall rule on private GKE clusters, the security group on EKS), and see NetworkPolicies"},
		{[]string{"could not find the requested resource", "404"}, "something else answers at that path: install the chart again"},
		{[]string{"EOF", "connection reset", "broken pipe"}, "is the injector restarting, or something between it and the API server that is not HTTPS?"},
		{[]string{"remote error: tls"}, "the injector refuses the API server's handshake: see its log"},
		{[]string{"connection error", "proxy"}, "see the tunnel or proxy between control plane and nodes"},
	} {
		if slices.ContainsFunc(known.parts, func(part string) bool { return strings.Contains(cause, part) }) {
			return known.remedy
		}
	}
	return "kubectl -n " + namespace + " logs deploy/" + injectorName
}

// judgeRefusal is about a pod that was refused by others: that says nothing of
// the injector.
func judgeRefusal(err error, namespace string) []Result {
	text := err.Error()
	has := func(part string) bool { return strings.Contains(text, part) }
	because := func(what string) []Result {
		r := notChecked("%s, which is no fault of the injector: %v", what, err)
		r[0].Remedy = "try another namespace with --namespace"
		return r
	}
	switch {
	case apierrors.IsNotFound(err) && has("namespaces "):
		return fail("name another with --namespace", "there is no namespace %s", namespace)
	case apierrors.IsForbidden(err) && has("error looking up service account"):
		return fail("name another with --service-account", "pods of namespace %s cannot be made: %s", namespace, afterLast(text, ": "))
	case apierrors.IsForbidden(err) && has(`cannot create resource "pods"`):
		return unread(err, "create", "pods in namespace "+namespace+", not even in a dry run")
	case has("exceeded quota"), has("failed quota"):
		return because(fmt.Sprintf("a ResourceQuota of namespace %s refuses the pod that would tell", namespace))
	case has("violates PodSecurity"):
		return because(fmt.Sprintf("the Pod Security level of namespace %s refuses the pod that would tell", namespace))
	case has("usage per Container"), has("usage per Pod"):
		return because(fmt.Sprintf("a LimitRange of namespace %s refuses the pod that would tell", namespace))
	case has("admission webhook "), has("failed calling webhook"), has("ValidatingAdmissionPolicy"):
		return because("another admission webhook or policy refuses the pod that would tell")
	case apierrors.IsForbidden(err):
		return because("the API server refuses the pod that would tell")
	case apierrors.IsInvalid(err):
		// It is valid as it is sent.
		return fail("see which other webhooks change pods, and the injector's log", "an annotated pod of namespace %s would be refused: %v", namespace, err)
	}
	return unread(err, "create", "pods in namespace "+namespace+" in a dry run")
}

func afterLast(s, sep string) string { return s[strings.LastIndex(s, sep)+len(sep):] }
