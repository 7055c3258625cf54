package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

var record = flag.Bool("record", false, "write the recorded reviews to internal/mutate/testdata")

// Another webhook adds a container after ours, in a namespace with a
// LimitRange. The API server then calls us again, with all that it has
// defaulted by then; that call must change nothing.
func TestReinvocationChangesNothing(t *testing.T) {
	s := aSpace(t)
	s.Create(`
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec:
  limits:
  - type: Container
    default: {cpu: 200m, memory: 64Mi}
    defaultRequest: {cpu: 10m, memory: 32Mi}
`)
	late := addLateContainer(t, s.Name)
	seen := recordInjector(t)

	s.Create(pod{name: "app", annotations: wants(s.Name), script: gated}.String())
	wantGated(s, "app")
	late()

	calls := seen()
	if len(calls) < 2 {
		t.Fatalf("the API server called the injector %d times, want a second call after the other webhook", len(calls))
	}
	if len(calls[0].response.Patch) == 0 {
		t.Error("the first call patched nothing")
	}
	second := calls[len(calls)-1]
	if !second.response.Allowed || len(second.response.Patch) != 0 {
		t.Errorf("the second call answered %+v with patch %s, want no operation", second.response.Result, second.response.Patch)
	}
	if !bytes.Contains(second.review, []byte(`"late"`)) {
		t.Error("the second call does not hold the late container: it is no reinvocation")
	}
	p := s.WaitPod("app", "ready", harness.Ready)
	for _, c := range p.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if c.Name == "late" && m.Name == "latchkey-secrets" {
				t.Error("a container that another webhook added was given the files")
			}
		}
	}
	if *record {
		for i, call := range calls {
			save(t, []string{"recorded-first", "recorded-again"}[min(i, 1)], call.review)
		}
	}
}

// save writes a review as a golden case, without what is only this cluster's.
func save(t *testing.T, name string, review []byte) {
	t.Helper()
	dir := filepath.Join(harness.Checkout(), "internal/mutate/testdata", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, review, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	if err := os.WriteFile(filepath.Join(dir, "review.json"), pretty.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// listen serves a webhook of the test's own on the node's address, where the
// API server reaches it, and returns how to call it.
func listen(t *testing.T, handler http.Handler) admissionregistrationv1.WebhookClientConfig {
	t.Helper()
	cert, key, err := suite.IssueServing(cluster.NodeIP)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", cluster.NodeIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	url := "https://" + listener.Addr().String() + "/mutate"
	return admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: suite.CA()}
}

// addLateContainer registers a webhook that comes after ours and adds a container.
func addLateContainer(t *testing.T, namespace string) (remove func()) {
	t.Helper()
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	none, fail := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail
	config := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "zz-late"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "late.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail,
			ClientConfig: listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var review admissionv1.AdmissionReview
				if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
					http.Error(w, err.Error(), http.StatusBadRequest)
					return
				}
				kind := admissionv1.PatchTypeJSONPatch
				review.Response = &admissionv1.AdmissionResponse{
					UID: review.Request.UID, Allowed: true, PatchType: &kind,
					Patch: []byte(`[{"op":"add","path":"/spec/containers/-","value":{"name":"late","image":"busybox:box","imagePullPolicy":"Never","command":["sh","-c","trap 'exit 0' TERM; sleep 86400 & wait"]}}]`),
				}
				review.Request = nil
				json.NewEncoder(w).Encode(review)
			})),
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}
	if _, err := client.Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove = sync.OnceFunc(func() {
		if err := client.Delete(context.Background(), config.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(remove)
	waitDryRun(t, namespace, "the late webhook to be called", func(pod string) bool { return strings.Contains(pod, `"late"`) })
	return remove
}

type call struct {
	review   []byte
	response *admissionv1.AdmissionResponse
}

// recordInjector puts a recorder between the API server and the injector. The
// returned function takes it out again and returns what it saw of real pods.
func recordInjector(t *testing.T) func() []call {
	t.Helper()
	var mu sync.Mutex
	var calls []call
	var used bool
	recorder := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := callInjector(r.Context(), body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		used = true
		if !bytes.Contains(body, []byte(`"dryRun":true`)) {
			calls = append(calls, call{body, answer.Response})
		}
		json.NewEncoder(w).Encode(answer)
	}))
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	config, err := client.Get(t.Context(), harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() { reinstallWebhook(t) })
	t.Cleanup(restore)
	config.Webhooks[0].ClientConfig = recorder
	if _, err := client.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitDryRun(t, "default", "the recorder to be called", func(string) bool {
		mu.Lock()
		defer mu.Unlock()
		return used
	})
	return func() []call {
		restore()
		mu.Lock()
		defer mu.Unlock()
		return calls
	}
}
