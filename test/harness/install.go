package harness

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
)

// Where Latchkey is installed.
const (
	InstallNamespace = "latchkey"
	InjectorName     = "latchkey-injector"
)

// Checkout is the root of the repository, above the working directory.
func Checkout() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "deploy", "webhook", "Chart.yaml")); missing == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	panic("the working directory is not in a checkout of Latchkey")
}

// Install installs the chart with Helm, or upgrades what is there, with a
// serving certificate from the cluster's CA, and waits until it serves. There may
// be more arguments of helm, which win over its own.
func (c *Cluster) Install(ctx context.Context, more ...string) error {
	cert, key, err := c.IssueServing(InjectorName+"."+InstallNamespace+".svc", InjectorName+"."+InstallNamespace)
	if err != nil {
		return fmt.Errorf("issuing the injector's certificate: %w", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   InstallNamespace,
		Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	if _, err := c.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", ns.Name, err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: InjectorName + "-tls"},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}
	secrets := c.Kube.CoreV1().Secrets(InstallNamespace)
	_, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		// In the box it is kept, since the running replicas serve it. For
		// another cluster each run has a CA of its own.
		if err = nil; !c.IsBox() {
			_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("storing the injector's certificate: %w", err)
	}
	ca, remove, err := temporary("ca.crt", c.CA())
	if err != nil {
		return err
	}
	defer remove()
	// A run that was broken off may have left an upgrade that Helm takes for one
	// under way, and changes that are the test's and that Helm would not touch.
	if err := secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{
		LabelSelector: "owner=helm,name=latchkey,status in (pending-install,pending-upgrade,pending-rollback)",
	}); err != nil {
		return fmt.Errorf("forgetting an upgrade that was broken off: %w", err)
	}
	return c.InstallWith(ctx, append([]string{"--force-conflicts", "--set-file", "certs.caBundle=" + ca,
		"--set-string", fmt.Sprintf("podAnnotations.ca-digest=%x", sha256.Sum256(c.CA()))}, more...)...)
}

// InstallWith installs the chart with Helm, or upgrades what is there, and
// waits until it serves. The arguments of helm say where the injector's
// certificate comes from.
func (c *Cluster) InstallWith(ctx context.Context, certs ...string) error {
	ca, remove, err := temporary("ca.crt", c.CA())
	if err != nil {
		return err
	}
	defer remove()
	vaultCA, remove, err := temporary("vault.crt", c.VaultCA)
	if err != nil {
		return err
	}
	defer remove()
	args := append([]string{"upgrade", "--install", "latchkey", filepath.Join(Checkout(), "deploy", "webhook"),
		"--namespace", InstallNamespace,
		"--set-file", "config.connections.default.ca=" + vaultCA,
		"--set-string", "config.connections.default.address=" + c.VaultAddr,
		// Only a changed pod makes a Deployment roll out.
		"--set-string", "podAnnotations.image-digest=" + injectorDigest(),
		"--set", "log.level=debug",
		"--wait", "--timeout", "3m"}, certs...)
	for fault, address := range FaultyConnections {
		connection := "config.connections." + fault
		args = append(args,
			"--set", connection+".address=https://"+address,
			"--set-file", connection+".ca="+ca)
	}
	if err := c.Helm(ctx, args...); err != nil {
		return err
	}
	// A replica of the old build serves on for a while after it was told to end.
	d, err := c.Kube.AppsV1().Deployments(InstallNamespace).Get(ctx, InjectorName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("looking at the injector: %w", err)
	}
	if err := c.waitPods(ctx, InstallNamespace, d.Spec.Selector, int(*d.Spec.Replicas)); err != nil {
		return err
	}
	return c.waitServing(ctx)
}

// temporary writes a file for a program of a test to read, and returns what
// removes it.
func temporary(name string, content []byte) (file string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "latchkey-")
	if err != nil {
		return "", nil, fmt.Errorf("making a folder: %w", err)
	}
	remove = func() { os.RemoveAll(dir) }
	file = filepath.Join(dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		remove()
		return "", nil, fmt.Errorf("writing a file: %w", err)
	}
	return file, remove, nil
}

// waitServing asks until the API server reaches the injector: replicas are
// ready a moment before Services lead to them.
func (c *Cluster) waitServing(ctx context.Context) error {
	const probe = `
apiVersion: v1
kind: Pod
metadata:
  name: probe
  annotations: {latchkey.dev/inject: "true", latchkey.dev/files: "[{path: probe, template: probe}]"}
spec:
  containers: [{name: probe, image: probe}]
`
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := c.create(ctx, "default", probe, true)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the API server to reach the injector: %w", err)
		}
	}
}

// Switch runs f while nothing is created. An upgrade that gives the injector a
// certificate of another CA, at once, has pods refused until it is through.
func (c *Cluster) Switch(f func()) {
	c.steady.Lock()
	defer c.steady.Unlock()
	f()
}

// FaultyConnections are connections that lead to Vault through a proxy, by the
// fault that a test's proxy will have. Nothing listens there otherwise.
var FaultyConnections = map[string]string{
	"slow":     cluster.NodeIP + ":18201",
	"cut":      cluster.NodeIP + ":18202",
	"refused":  cluster.NodeIP + ":18203",
	"limited":  cluster.NodeIP + ":18204",
	"sealed":   cluster.NodeIP + ":18205",
	"redirect": cluster.NodeIP + ":18206",
}

// injectorDigest tells one build of the injector's image from another: both
// have the same tag.
func injectorDigest() string {
	data, err := os.ReadFile(filepath.Join(Checkout(), "dist", runtime.GOARCH, InjectorName+".tar"))
	if err != nil {
		return "unknown" // another cluster, whose images were brought there otherwise
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// Helm runs helm on this cluster. What it prints is shown only when it fails.
func (c *Cluster) Helm(ctx context.Context, args ...string) error {
	home, err := os.MkdirTemp("", "latchkey-helm-")
	if err != nil {
		return fmt.Errorf("making a folder for helm: %w", err)
	}
	defer os.RemoveAll(home)
	cmd := exec.CommandContext(ctx, c.Tool("helm"), args...)
	// Nothing of the user's own Helm settings may matter, or be changed.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "KUBECACHEDIR="+home,
		"HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "HELM_CACHE_HOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running helm %s: %w\n%s", args[0], err, out)
	}
	return nil
}
