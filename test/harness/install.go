package harness

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
// serving certificate from the box's CA, and waits until it serves.
func (c *Cluster) Install(ctx context.Context) error {
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
	// An installed certificate is kept: the running replicas serve it.
	if _, err := c.Kube.CoreV1().Secrets(InstallNamespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating the injector's certificate: %w", err)
	}
	ca, err := os.CreateTemp("", "latchkey-ca-*.crt")
	if err != nil {
		return fmt.Errorf("writing the CA to a file for helm: %w", err)
	}
	defer os.Remove(ca.Name())
	// Vault's certificate and the injector's are of one CA here.
	if _, err := ca.Write(c.CA()); err != nil {
		return fmt.Errorf("writing the CA to a file for helm: %w", err)
	}
	if err := ca.Close(); err != nil {
		return fmt.Errorf("writing the CA to a file for helm: %w", err)
	}
	return c.Helm(ctx, "upgrade", "--install", "latchkey", filepath.Join(Checkout(), "deploy", "webhook"),
		"--namespace", InstallNamespace,
		"--set-file", "certs.caBundle="+ca.Name(),
		"--set-file", "config.connections.default.ca="+ca.Name(),
		"--set-string", "podAnnotations.image-digest="+injectorDigest(),
		"--wait", "--timeout", "3m")
}

// injectorDigest tells one build of the injector's image from another: both
// have the same tag, and only a changed pod makes a Deployment roll out.
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
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "HELM_CACHE_HOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running helm %s: %w\n%s", args[0], err, out)
	}
	return nil
}
