package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Certificates is the resource of cert-manager's Certificates.
var Certificates = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificates"}

// CertManager runs cert-manager until the test ends: its resources, its
// controllers and its CA injector. Another cluster than the box must have it.
func (c *Cluster) CertManager(t testing.TB) {
	t.Helper()
	if !c.IsBox() {
		if _, err := c.Dynamic.Resource(Certificates).List(t.Context(), metav1.ListOptions{Limit: 1}); err != nil {
			t.Fatalf("looking for cert-manager, which this cluster must have: %v", err)
		}
		return
	}
	program, err := filepath.EvalSymlinks(c.Tool("cert-manager"))
	if err != nil {
		t.Fatalf("looking for cert-manager (add it with `bin/cluster add cert-manager`): %v", err)
	}
	crds := filepath.Join(filepath.Dir(program), "crds")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := errors.Join(c.StopCertManager(), c.Kubectl(ctx, "", "delete", "--ignore-not-found", "-f", crds)); err != nil {
			t.Errorf("removing cert-manager: %v", err)
		}
	})
	c.kubectl(t, "", "apply", "--server-side", "-f", crds)
	c.kubectl(t, "", "wait", "--for=condition=Established", "--timeout=1m", "-f", crds)
	if err := c.StartCertManager(); err != nil {
		t.Fatal(err)
	}
}

// Renew makes cert-manager issue a Certificate anew, as `cmctl renew` does, and
// returns when it has.
func (c *Cluster) Renew(t testing.TB, namespace, name string) {
	t.Helper()
	certificates := c.Dynamic.Resource(Certificates).Namespace(namespace)
	cert, err := certificates.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("renewing Certificate %s: %v", name, err)
	}
	before, _, _ := unstructured.NestedInt64(cert.Object, "status", "revision")
	conditions, _, _ := unstructured.NestedSlice(cert.Object, "status", "conditions")
	conditions = append(conditions, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by a test",
		"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
	})
	if err := unstructured.SetNestedSlice(cert.Object, conditions, "status", "conditions"); err != nil {
		t.Fatal(err)
	}
	if _, err := certificates.UpdateStatus(t.Context(), cert, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("renewing Certificate %s: %v", name, err)
	}
	c.kubectl(t, namespace, "wait", fmt.Sprintf("--for=jsonpath={.status.revision}=%d", before+1), "--timeout=1m", "certificate/"+name)
}

// Kubectl runs kubectl. What it prints is shown only when it fails.
func (c *Cluster) Kubectl(ctx context.Context, namespace string, args ...string) error {
	home, err := os.MkdirTemp("", "latchkey-kubectl-")
	if err != nil {
		return fmt.Errorf("making a folder for kubectl: %w", err)
	}
	defer os.RemoveAll(home)
	if namespace != "" {
		args = append([]string{"--namespace", namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, c.Tool("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+home, "HOME="+home, "KUBERC=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (c *Cluster) kubectl(t testing.TB, namespace string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := c.Kubectl(ctx, namespace, args...); err != nil {
		t.Fatal(err)
	}
}
