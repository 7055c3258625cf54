package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// Webhooks of the tests' own. The API server calls webhooks in the order of
// their configurations' names, so what a test calls "aa-…" comes before ours
// and "zz-…" behind it.

// addWebhook registers a webhook for the pods of one namespace that are
// created, and waits until it is called. The returned function removes it, as
// does the end of the test.
func addWebhook(t *testing.T, s *harness.Space, name string, again admissionregistrationv1.ReinvocationPolicyType, handler http.Handler) {
	t.Helper()
	var called atomic.Bool
	config := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-" + s.Name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: name + ".example.com", AdmissionReviewVersions: []string{"v1"}, ReinvocationPolicy: &again,
			SideEffects: new(admissionregistrationv1.SideEffectClassNone), FailurePolicy: new(admissionregistrationv1.Fail),
			ClientConfig: listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				called.Store(true)
				handler.ServeHTTP(w, r)
			})),
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.Name}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if _, err := client.Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Delete(context.Background(), config.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	waitDryRun(t, s.Name, "webhook "+name+" to be called", func(string) bool { return called.Load() })
}

// An operation of a JSON patch, RFC 6902.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func add(path string, value any) operation { return operation{"add", path, value} }

// patching answers each pod with the operations that patch returns for it.
func patching(patch func(*corev1.Pod) []operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var pod corev1.Pod
		err := json.NewDecoder(r.Body).Decode(&review)
		if err == nil {
			err = json.Unmarshal(review.Request.Object.Raw, &pod)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if operations := patch(&pod); len(operations) > 0 {
			if review.Response.Patch, err = json.Marshal(operations); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			review.Response.PatchType = new(admissionv1.PatchTypeJSONPatch)
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	})
}

// busybox is a container of the tests' image.
func busybox(name, script string) map[string]any {
	return map[string]any{"name": name, "image": "busybox:box", "imagePullPolicy": "Never", "command": []string{"sh", "-c", script}}
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

// postReview sends a body to a webhook as the API server would.
func postReview(ctx context.Context, client *http.Client, url string, body []byte) (*admissionv1.AdmissionReview, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var out admissionv1.AdmissionReview
	if response.StatusCode != http.StatusOK || json.Unmarshal(answer, &out) != nil || out.Response == nil {
		return nil, fmt.Errorf("the webhook answered HTTP %d: %.300s", response.StatusCode, answer)
	}
	return &out, nil
}
