package check

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// called is how the API server words that it could not call the injector.
func called(cause string) error {
	return apierrors.NewInternalError(errors.New(`failed calling webhook "injector.latchkey.dev": failed to call webhook: Post "https://latchkey-injector.latchkey.svc:443/mutate?timeout=5s": ` + cause))
}

func refused(text string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "latchkey-check-abcde", errors.New(text))
}

func TestJudgeCall(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		begins string
		parts  []string
	}{
		{"no endpoints", called(`no endpoints available for service "latchkey-injector"`), "FAIL  : annotated pods are refused",
			[]string{`: no endpoints available for service "latchkey-injector" (no injector is ready: kubectl -n keys describe deployment,pods)`}},
		{"no Service", called(`service "latchkey-injector" not found`), "FAIL ", []string{"the Service that the webhook configuration names is gone"}},
		{"refused", called("dial tcp 10.96.7.7:443: connect: connection refused"), "FAIL ", []string{": dial tcp 10.96.7.7:443: connect: connection refused (the injector does not listen"}},
		{"dropped", called("context deadline exceeded"), "FAIL ", []string{"something drops the API server's packets", "8443", "GKE", "EKS"}},
		{"dropped early", called("dial tcp 10.1.2.3:8443: i/o timeout"), "FAIL ", []string{"something drops the API server's packets"}},
		{"slow", called("net/http: request canceled (Client.Timeout exceeded while awaiting headers)"), "FAIL ", []string{"something drops"}},
		{"no way", called("dial tcp 10.96.7.7:443: connect: no route to host"), "FAIL ", []string{"the API server has no way to the pods"}},
		{"stale caBundle", called(`tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of "x509: ECDSA verification failure" while trying to verify candidate authority certificate "ca")`), "FAIL ",
			[]string{"caBundle in the webhook configuration is not the CA of the certificate that the injector serves", "cainjector"}},
		{"broken caBundle", apierrors.NewInternalError(errors.New(`failed calling webhook "injector.latchkey.dev": could not get REST client: unable to load root certificates: unable to parse bytes as PEM block`)), "FAIL ",
			[]string{"(caBundle in the webhook configuration is not the CA", "it holds no PEM"}},
		{"expired", called("tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-11-22T01:00:00Z is after 2026-11-21T01:00:00Z"), "FAIL ", []string{"renew the injector's certificate"}},
		{"wrong name", called("tls: failed to verify certificate: x509: certificate is valid for other.svc, not latchkey-injector.latchkey.svc"), "FAIL ", []string{"(issue the certificate for latchkey-injector.keys.svc)"}},
		{"no names", called("tls: failed to verify certificate: x509: certificate is not valid for any names, but wanted to match latchkey-injector.latchkey.svc"), "FAIL ", []string{"issue the certificate for"}},
		{"other path", called("the server could not find the requested resource"), "FAIL ", []string{"something else answers at that path"}},
		{"restart", called("EOF"), "FAIL ", []string{"is the injector restarting"}},
		{"unknown", called("something new"), "FAIL ", []string{": something new (kubectl -n keys logs deploy/latchkey-injector)"}},
		{"our denial", refused(`admission webhook "injector.latchkey.dev" denied the request: latchkey.dev/connection: "default" is not allowed in namespace "shop" (other)`),
			`FAIL  : the API server reaches the injector, which refuses pods of namespace shop: latchkey.dev/connection: "default" is not allowed`, []string{"--connection names another"}},
		{"quota", refused("exceeded quota: compute, requested: limits.cpu=10m, used: limits.cpu=1, limited: limits.cpu=1"),
			"-     : not checked: a ResourceQuota of namespace shop refuses the pod that would tell, which is no fault of the injector", []string{"exceeded quota: compute", "--namespace"}},
		{"Pod Security", refused(`violates PodSecurity "restricted:latest": seccompProfile`), "-     : not checked: the Pod Security level of namespace shop", nil},
		{"LimitRange", refused("minimum cpu usage per Container is 100m, but request is 10m"), "-     : not checked: a LimitRange of namespace shop", nil},
		{"other webhook denies", refused(`admission webhook "policy.example.com" denied the request: no`), "-     : not checked: another admission webhook", []string{"policy.example.com"}},
		{"other webhook fails", apierrors.NewInternalError(errors.New(`failed calling webhook "policy.example.com": failed to call webhook: EOF`)), "-     : not checked: another admission webhook", nil},
		{"no namespace", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"), "FAIL  : there is no namespace shop", nil},
		{"no ServiceAccount", refused(`error looking up service account shop/app: serviceaccount "app" not found`), `FAIL  : pods of namespace shop cannot be made: serviceaccount "app" not found`, []string{"--service-account"}},
		{"no right", apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New(`User "eve" cannot create resource "pods" in API group "" in the namespace "shop"`)),
			"-     : not checked: you may not create pods in namespace shop, not even in a dry run\n", nil},
		{"time", errors.New("context deadline exceeded"), "FAIL  : the API server could not create pods in namespace shop in a dry run: context deadline exceeded (is the API server well", nil},
		{"invalid", apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "latchkey-check-abcde", nil), "FAIL  : an annotated pod of namespace shop would be refused: ", []string{"other webhooks change pods"}},
	} {
		got := judgeCall(c.err, "shop", "keys")
		want(t, c.name, got, c.begins, c.parts...)
		if strings.Contains(lines(got), "?timeout=") {
			t.Errorf("%s: quotes the URL: %s", c.name, lines(got))
		}
	}
}

func TestWebhookCall(t *testing.T) {
	kube := fake.NewClientset()
	var made *corev1.Pod
	agent := true
	kube.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create := a.(clienttesting.CreateActionImpl)
		if got := create.CreateOptions.DryRun; len(got) != 1 || got[0] != metav1.DryRunAll {
			t.Errorf("the pod is made for good: %q", got)
		}
		made = create.Object.(*corev1.Pod)
		answer := made.DeepCopy()
		if agent {
			answer.Spec.InitContainers = []corev1.Container{{Name: "latchkey-agent"}}
		}
		return true, answer, nil
	})
	e := &env{kube: kube, Options: Options{Namespace: "shop", ServiceAccount: "web", Connection: "other"}}
	want(t, "injected", webhookCall(t.Context(), e), "ok    : the API server reaches the injector and trusts it: an annotated pod of namespace shop gets its agent")
	if made.Namespace != "" && made.Namespace != "shop" || made.Spec.ServiceAccountName != "web" || made.Annotations["latchkey.dev/connection"] != "other" {
		t.Errorf("made %+v", made)
	}
	agent = false
	want(t, "not injected", webhookCall(t.Context(), e), "FAIL  : an annotated pod of namespace shop would be made without its agent (does the webhook configuration's namespaceSelector")
}
