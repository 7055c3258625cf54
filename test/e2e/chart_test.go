package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/latchkey-dev/latchkey/test/chart"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// TestChartIsAccepted gives each rendering of the chart to the API server, and
// its pods to a namespace with the Pod Security level restricted and a quota.
func TestChartIsAccepted(t *testing.T) {
	suite.CertManager(t)
	s := suite.Space(t, "pod-security.kubernetes.io/enforce=restricted")
	s.ServiceAccount(harness.InjectorName)
	s.ServiceAccount("latchkey-authconfig")
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
		"requests.cpu": resource.MustParse("1"), "requests.memory": resource.MustParse("1Gi"), "limits.memory": resource.MustParse("1Gi"),
	}}}
	if _, err := s.Kube.CoreV1().ResourceQuotas(s.Name).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cases, err := chart.Cases(harness.Checkout())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Refused() {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			rendered, err := c.Render(t.Context(), suite.Tool("helm"), filepath.Join(harness.Checkout(), "deploy", "webhook"), filepath.Join(c.Dir, "values.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "rendered.yaml")
			pods := map[string]corev1.PodTemplateSpec{}
			var known []string
			for _, object := range strings.Split(rendered, "\n---\n") {
				var kind metav1.TypeMeta
				if err := yaml.Unmarshal([]byte(object), &kind); err != nil {
					t.Fatalf("%v:\n%s", err, object)
				}
				// The Prometheus operator's own are looked at where its types are: in tools.
				if kind.APIVersion != "monitoring.coreos.com/v1" {
					known = append(known, object)
				}
				if kind.Kind == "Deployment" {
					var d appsv1.Deployment
					if err := yaml.UnmarshalStrict([]byte(object), &d); err != nil {
						t.Fatal(err)
					}
					pods[d.Name] = d.Spec.Template
				}
			}
			if err := os.WriteFile(file, []byte(strings.Join(known, "\n---\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := suite.Kubectl(t.Context(), "", "apply", "--server-side", "--force-conflicts", "--field-manager=helm", "--dry-run=server", "-f", file); err != nil {
				t.Error(err)
			}
			for name, pod := range pods {
				pod.Name = name
				_, err = s.Kube.CoreV1().Pods(s.Name).Create(t.Context(), &corev1.Pod{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec},
					metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				switch {
				case !pod.Spec.HostNetwork && err != nil:
					t.Errorf("a restricted namespace with a quota refuses the pod of %s: %v", name, err)
				case pod.Spec.HostNetwork && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "hostNetwork")):
					t.Errorf("%s in the node's network: %v, want a refusal by Pod Security", name, err)
				}
			}
			if len(pods) == 0 {
				t.Error("there is no Deployment")
			}
		})
	}
}

// TestChartRights installs the chart with each certificate mode and asks the
// API server for all that the injector may do.
func TestChartRights(t *testing.T) {
	s := suite.Space(t)
	s.ServiceAccount("nobody")
	everybody := rights(t, s.Name, s.Name+":nobody")
	if len(everybody) == 0 {
		t.Fatal("kubectl auth can-i lists nothing")
	}
	const injector = harness.InstallNamespace + ":" + harness.InjectorName
	wantRights := func(want ...string) {
		t.Helper()
		var own []string
		for _, r := range rights(t, harness.InstallNamespace, injector) {
			if !slices.Contains(everybody, r) {
				own = append(own, r)
			}
		}
		if slices.Sort(want); !slices.Equal(own, want) {
			t.Errorf("the injector may\n  %s\nwant\n  %s", strings.Join(own, "\n  "), strings.Join(want, "\n  "))
		}
	}
	wantRights() // from files: the suite's own installation
	for _, pod := range injectorPods(t) {
		for _, v := range pod.Spec.Volumes {
			if v.Projected != nil {
				t.Errorf("%s has a token (volume %s)", pod.Name, v.Name)
			}
		}
	}

	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*harness.Patience)
		defer cancel()
		if err := suite.Install(ctx); err != nil {
			t.Errorf("installing the chart as before: %v", err)
		}
		err := suite.Kube.CoreV1().Secrets(harness.InstallNamespace).Delete(ctx, "latchkey-injector-ca", metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("deleting the CA: %v", err)
		}
	})
	if err := suite.InstallWith(t.Context(), "--set", "certs.mode=self-managed"); err != nil {
		t.Fatal(err)
	}
	ca := []string{
		"secrets [] [] [create]",
		"secrets [] [latchkey-injector-ca] [get list watch update]",
		"mutatingwebhookconfigurations.admissionregistration.k8s.io [] [latchkey-injector] [get list watch patch]",
	}
	wantRights(ca...)

	t.Run("an upgrade keeps the bundle", func(t *testing.T) {
		before := caBundle(t)
		if len(before) == 0 {
			t.Fatal("the webhook configuration has no caBundle")
		}
		if err := suite.InstallWith(t.Context(), "--set", "certs.mode=self-managed", "--set", "webhook.timeoutSeconds=4",
			"--set", "check.rbac=true", "--set", fmt.Sprintf("check.serviceAccounts[0].namespace=%s", s.Name), "--set", "check.serviceAccounts[0].name=nobody"); err != nil {
			t.Fatal(err)
		}
		if after := caBundle(t); !bytes.Equal(before, after) {
			t.Errorf("caBundle was\n%s\nand is\n%s", before, after)
		}
	})
	wantRights(append(ca,
		"clustertrustbundles.certificates.k8s.io [] [] [list]",
		"endpointslices.discovery.k8s.io [] [] [list]",
		"pods [] [] [list]",
		"services [] [latchkey-injector] [get]")...)
	for _, r := range rights(t, s.Name, injector) {
		if strings.HasPrefix(r, "secrets ") {
			t.Errorf("in another namespace the injector may %s", r)
		}
	}
	t.Run("alerts and dashboard ask for what is there", func(t *testing.T) {
		var text []byte
		for _, pod := range injectorPods(t) {
			data, err := suite.Kube.CoreV1().Pods(pod.Namespace).ProxyGet("http", pod.Name, "8080", "metrics", nil).DoRaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, data...)
		}
		metric := regexp.MustCompile(`\b(latchkey_injector|process|go)_[a-z_]+`)
		for _, file := range []string{"alerts/injector.yaml", "dashboards/injector.json"} {
			data, err := os.ReadFile(filepath.Join(harness.Checkout(), "deploy", "webhook", file))
			if err != nil {
				t.Fatal(err)
			}
			asked := metric.FindAll(data, -1)
			if len(asked) < 5 {
				t.Fatalf("%s names %d metrics", file, len(asked))
			}
			for _, name := range asked {
				if !regexp.MustCompile(`(?m)^` + string(name) + `[{ ]`).Match(text) {
					t.Errorf("%s asks for %s, which the injector does not have", file, name)
				}
			}
		}
	})
}

// rights are the lines of `kubectl auth can-i --list` in a namespace for the
// ServiceAccount namespace:name.
func rights(t *testing.T, namespace, account string) []string {
	t.Helper()
	s := &harness.Space{Cluster: suite, TB: t, Name: namespace}
	out, stderr, err := s.KubectlOutput("", "auth", "can-i", "--list", "--no-headers",
		"--as=system:serviceaccount:"+account)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		// Resource, URLs, names, verbs, with as many blanks between them as the longest needs.
		columns := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1)
		lines = append(lines, strings.Join(columns, " "))
	}
	slices.Sort(lines)
	return lines
}

func caBundle(t *testing.T) []byte {
	t.Helper()
	hook, err := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return hook.Webhooks[0].ClientConfig.CABundle
}

func injectorPods(t *testing.T) []corev1.Pod {
	t.Helper()
	pods, err := suite.Kube.CoreV1().Pods(harness.InstallNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=latchkey-injector"})
	if err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) == 0 {
		t.Fatal("there is no injector")
	}
	return pods.Items
}
