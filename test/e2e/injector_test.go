package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// With the injector down, un-annotated pods start and annotated ones are
// refused, in words that name the webhook and the cause.
func TestInjectorDown(t *testing.T) {
	s := aSpace(t)
	up := without(t, func(ctx context.Context, replicas int32) error {
		return suite.ScaleDeployment(ctx, harness.InstallNamespace, harness.InjectorName, replicas)
	}, 2)

	s.Create(pod{name: "plain", script: "echo runs" + stay}.String())
	s.WaitPod("plain", "ready", harness.Ready)

	p := pod{annotations: wants(s.Name), script: gated}
	s.Create("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: annotated}\nspec:\n  selector: {matchLabels: {app: test}}\n  template:\n" + indent(4, p.template()))
	e := s.WaitEvent("ReplicaSet", "annotated-", "FailedCreate", "injector.latchkey.dev")
	if !strings.Contains(e.Message, "no endpoints available") && !strings.Contains(e.Message, "connection refused") && !strings.Contains(e.Message, "context deadline exceeded") {
		t.Errorf("the Event does not say why the webhook could not be called: %s", e.Message)
	}
	t.Logf("event: %s", e.Message)

	up()
	for _, name := range s.PodNames("app=test", 2) {
		if name != "plain" {
			wantGated(s, name)
		}
	}
}

// Bad input to the running webhook is answered, and the next good review is
// patched as if nothing had happened.
func TestBadInputIsAnswered(t *testing.T) {
	for _, c := range []struct {
		name, body string
		code       int32
		says       string
	}{
		{"empty", "", 400, ""},
		{"not JSON", "latchkey", 400, ""},
		{"no request", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400, "request"},
		{"over 7 MiB", `{"apiVersion":"` + strings.Repeat("x", 7<<20) + `"}`, 413, "7 MiB"},
		{"deep nesting", strings.Repeat(`{"a":`, 100000) + "1" + strings.Repeat("}", 100000), 400, ""},
		{"a list for a pod", review(`[]`), 400, ""},
		{"wrong types", review(`{"metadata":{"annotations":{"latchkey.dev/inject":true}},"spec":{"containers":"none"}}`), 400, ""},
		{"null pod", review(`null`), 400, ""},
	} {
		response := post(t, c.body)
		if response.Allowed || response.Result == nil || response.Result.Code != c.code || !strings.Contains(response.Result.Message, c.says) {
			t.Errorf("%s: answered %+v, want it refused with code %d", c.name, response, c.code)
		} else {
			t.Logf("%s: %d %s", c.name, response.Result.Code, response.Result.Message)
		}
	}
	good := post(t, review(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"app","annotations":{"latchkey.dev/inject":"true","latchkey.dev/role":"app","latchkey.dev/files":"[{path: a, template: b}]"},
"unknownToThisBuild":{"a":1}},"spec":{"unknownToThisBuild":[1,2],"containers":[{"name":"app","image":"busybox:box","unknownToThisBuild":"kept"}]}}`))
	if !good.Allowed || len(good.Patch) == 0 {
		t.Fatalf("a good review after the bad ones: %+v, want it patched", good)
	}
	var operations []struct{ Op, Path string }
	if err := json.Unmarshal(good.Patch, &operations); err != nil {
		t.Fatal(err)
	}
	for _, op := range operations {
		if op.Op != "add" && op.Op != "test" || strings.Contains(op.Path, "unknownToThisBuild") {
			t.Errorf("operation %s %s: the patch only adds, and leaves unknown fields where they are", op.Op, op.Path)
		}
	}
}

func review(pod string) string {
	return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1","kind":{"group":"","version":"v1","kind":"Pod"},
"resource":{"group":"","version":"v1","resource":"pods"},"namespace":"shop","operation":"CREATE","object":` + pod + `}}`
}

func post(t *testing.T, body string) *admissionv1.AdmissionResponse {
	t.Helper()
	answer, err := callInjector(t.Context(), []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return answer.Response
}

// callInjector sends a body to the running webhook as the API server would.
func callInjector(ctx context.Context, body []byte) (*admissionv1.AdmissionReview, error) {
	service, err := suite.Kube.CoreV1().Services(harness.InstallNamespace).Get(ctx, harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(suite.CA())
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: harness.InjectorName + "." + harness.InstallNamespace + ".svc",
	}}}
	defer client.CloseIdleConnections()
	return postReview(ctx, client, "https://"+service.Spec.ClusterIP+"/mutate", body)
}

// removeWebhook deletes the webhook's configuration and waits until the API
// server calls it no more. The returned function, which the test's end calls
// too, brings it back.
func removeWebhook(t *testing.T) (restore func()) {
	t.Helper()
	restore = sync.OnceFunc(func() { reinstallWebhook(t) })
	t.Cleanup(restore)
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if err := client.Delete(t.Context(), harness.InjectorName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitInjecting(t, false)
	return restore
}

// reinstallWebhook brings the webhook's configuration back as the chart has it.
// Written by a test it would be the test's, and Helm would refuse to change it.
func reinstallWebhook(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	err := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, harness.InjectorName, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		err = suite.Install(ctx)
	}
	if err != nil {
		t.Error(err)
	}
	waitInjecting(t, true)
}

// waitInjecting waits until the API server does, or does not, call the injector.
func waitInjecting(t *testing.T, want bool) {
	t.Helper()
	waitDryRun(t, "default", "the injector to be called or not", func(pod string) bool {
		return strings.Contains(pod, `"latchkey-agent"`) == want
	})
}

// waitDryRun asks until an annotated pod would be stored as wanted: the API
// server follows webhook configurations with a delay that nothing tells.
func waitDryRun(t *testing.T, namespace, what string, wanted func(pod string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	text := strings.Replace(pod{name: "probe", script: "true", annotations: wants(namespace)}.String(),
		"serviceAccountName: app", "serviceAccountName: default", 1)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		u, err := suite.Create(ctx, namespace, text, true)
		if err == nil {
			raw, err := u.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if wanted(string(raw)) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}
