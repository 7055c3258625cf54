package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// An operator's mistake in the configuration is told in the log, in a metric
// and by readiness, and changes nothing for pods; what is good is used without
// a restart.
func TestConfigurationIsReloaded(t *testing.T) {
	s := aSpace(t)
	pods := installedReplicas(t)
	t.Cleanup(func() { upgrade(t, nil) })
	const good = "latchkey_injector_config_last_reload_successful 1\n"

	connections := func(address string) map[string]any {
		return map[string]any{
			"default":  map[string]any{"address": address},
			"reloaded": map[string]any{"address": suite.VaultAddr, "ca": string(suite.VaultCA)},
		}
	}
	upgrade(t, connections("vault.vault.svc:8200"))
	const says = "connections.default.address"
	wantEach(t, pods, "/metrics", strings.Replace(good, " 1", " 0", 1))
	for _, p := range pods {
		body, code, err := get(t.Context(), opsURL(p, "/readyz"))
		if err != nil || code != http.StatusOK || !strings.Contains(body, "last good configuration") || !strings.Contains(body, says) {
			t.Errorf("/readyz with a broken configuration: HTTP %d %q (%v), want it ready, with the detail that %s is wrong", code, body, err, says)
		}
		log, err := suite.Logs(t.Context(), p.Namespace, p.Name, p.Spec.Containers[0].Name)
		if err != nil || !strings.Contains(log, "keeping last good configuration") || !strings.Contains(log, says) {
			t.Errorf("the log does not say that %s is wrong (%v):\n%s", says, err, log)
		}
	}
	s.Create(pod{name: "meanwhile", annotations: wants(s.Name), script: readFirst + stay}.String())
	reloaded := wants(s.Name) + "latchkey.dev/connection: reloaded\n"
	if u, err := suite.Create(t.Context(), s.Name, pod{name: "early", annotations: reloaded, script: "true"}.String(), true); err == nil {
		t.Errorf("a connection of the broken configuration can be used: %v", u)
	}
	s.WaitPod("meanwhile", "ready", harness.Ready)
	wantLog(s, "meanwhile")

	upgrade(t, connections(suite.VaultAddr))
	wantEach(t, pods, "/metrics", good)
	for _, p := range pods {
		if body, _, err := get(t.Context(), opsURL(p, "/readyz")); err != nil || strings.Contains(body, "last good configuration") {
			t.Errorf("/readyz with a repaired configuration: %q (%v)", body, err)
		}
	}
	s.Create(pod{name: "after", annotations: reloaded, script: readFirst + stay}.String())
	s.WaitPod("after", "ready", harness.Ready)
	wantLog(s, "after")

	for i, p := range installedReplicas(t) {
		if p.UID != pods[i].UID || p.Status.ContainerStatuses[0].RestartCount != pods[i].Status.ContainerStatuses[0].RestartCount {
			t.Errorf("injector pod %s was restarted, want the configuration taken over by the one that runs", p.Name)
		}
	}
}

// upgrade gives the installed chart other connections beside those that the
// suite gave it, as an operator does. With none it restores the suite's.
func upgrade(t *testing.T, connections map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if connections == nil {
		if err := suite.Install(ctx); err != nil {
			t.Error(err)
		}
	} else {
		values, err := json.Marshal(map[string]any{"config": map[string]any{"connections": connections}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "values.json")
		if err := os.WriteFile(file, values, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := suite.Helm(ctx, "upgrade", "latchkey", filepath.Join(harness.Checkout(), "deploy", "webhook"),
			"--namespace", harness.InstallNamespace, "--reuse-values", "--values", file); err != nil {
			t.Fatal(err)
		}
	}
}

// installedReplicas are the installed injector's replicas, by name.
func installedReplicas(t *testing.T) []corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := suite.Kube.AppsV1().Deployments(harness.InstallNamespace).Get(ctx, harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := suite.Kube.CoreV1().Pods(harness.InstallNamespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != int(*d.Spec.Replicas) {
		t.Fatalf("there are %d pods of the injector, want %d", len(list.Items), *d.Spec.Replicas)
	}
	return list.Items
}

func opsURL(p corev1.Pod, path string) string { return "http://" + p.Status.PodIP + ":8080" + path }

// wantEach asks each replica until its answer holds text. It hastens the
// kubelet, which looks at a pod's volumes when the pod changes, or a minute
// later.
func wantEach(t *testing.T, pods []corev1.Pod, path, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for _, p := range pods {
		for {
			touch := fmt.Appendf(nil, `{"metadata":{"annotations":{"example.com/touched":%q}}}`, time.Now())
			if _, err := suite.Kube.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, touch, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			body, _, err := get(ctx, opsURL(p, path))
			if err == nil && strings.Contains(body, text) {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("waiting for %q at %s of %s: %v\n%s", text, path, p.Name, err, body)
			}
		}
	}
}

// get asks a URL of the cluster's network.
func get(ctx context.Context, url string) (body string, code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return string(data), response.StatusCode, err
}
