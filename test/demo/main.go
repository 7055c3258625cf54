// Command demo tells Latchkey's story on a real cluster and checks each step:
// `make demo`. It exits 1 when something it shows is not so.
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

//go:embed pod.yaml
var manifest string

// The demo's names; pod.yaml has them too.
const (
	namespace = "demo"
	app       = "shop"
	role      = "demo_shop" // what the chart's role template makes of the two
)

const stepLimit = 4 * time.Minute // more than helm's own

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	out := newStory(os.Stdout)
	c, err := harness.Open()
	if err != nil {
		return err
	}
	d := &demo{Cluster: c, story: out}
	for _, step := range []func(context.Context) error{
		d.install, d.prepare, d.apply, d.injected, d.read, d.audited, d.changed, d.deleted,
	} {
		if err := d.within(ctx, step); err != nil {
			return err
		}
	}
	out.end("The cluster still runs: bin/kubectl get pods -A. To stop it and leave nothing behind: make cluster-down")
	return nil
}

type demo struct {
	*harness.Cluster
	*story
	applied time.Time
	pod     *corev1.Pod
}

// within gives a step a limit, so that a story that stops says why while its reader still looks.
func (d *demo) within(ctx context.Context, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	return step(ctx)
}

func (d *demo) install(ctx context.Context) error {
	d.chapter("Install Latchkey")
	d.command("helm upgrade --install latchkey deploy/webhook --namespace latchkey …")
	began := time.Now()
	if err := d.Install(ctx); err != nil {
		return err
	}
	d.good("the injector serves (%s)", since(began))
	return nil
}

// prepare does what Vault's operator does once per application.
func (d *demo) prepare(ctx context.Context) error {
	d.chapter("A secret in Vault, and a role for the pod's ServiceAccount")
	if err := d.clean(ctx); err != nil {
		return err
	}
	d.command("vault kv put kv/demo/db username=shop password=first")
	if err := d.put(ctx, "first"); err != nil {
		return err
	}
	d.command("vault write auth/kubernetes/role/%s bound_service_account_names=shop \\\n  bound_service_account_namespaces=demo audience=vault token_policies=%s", role, role)
	if err := d.WriteRole(ctx, cluster.Role{
		Name: role, Namespaces: []string{namespace}, ServiceAccounts: []string{app}, Audience: harness.Audience,
		Policy: `path "kv/data/demo/db" { capabilities = ["read"] }`, TTL: time.Hour,
	}); err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := d.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating namespace %s: %w", namespace, err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: app}}
	if _, err := d.Kube.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating ServiceAccount %s: %w", app, err)
	}
	d.good("Vault knows the secret and the role")
	return nil
}

// clean removes what an earlier demo left, so that this one begins where the first did.
func (d *demo) clean(ctx context.Context) error {
	if err := d.Kube.CoreV1().Pods(namespace).Delete(ctx, app, metav1.DeleteOptions{}); err == nil {
		if err := d.WaitGone(ctx, namespace, app); err != nil {
			return err
		}
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the pod of an earlier demo: %w", err)
	}
	return d.DeleteNamespace(ctx, namespace)
}

func (d *demo) put(ctx context.Context, password string) error {
	_, err := d.Root.KVv2("kv").Put(ctx, "demo/db", map[string]any{"username": app, "password": password})
	if err != nil {
		return fmt.Errorf("writing kv/demo/db: %w", err)
	}
	return nil
}

func (d *demo) apply(ctx context.Context) error {
	d.chapter("The pod as applied")
	d.code(manifest)
	d.command("kubectl apply -f pod.yaml")
	d.applied = time.Now()
	if _, err := d.Create(ctx, namespace, manifest, false); err != nil {
		return fmt.Errorf("creating the pod: %w", err)
	}
	var err error
	if d.pod, err = d.WaitPod(ctx, namespace, app, "ready", harness.Ready); err != nil {
		return err
	}
	d.good("the pod is ready after %s", since(d.applied))
	return nil
}

func (d *demo) injected(ctx context.Context) error {
	d.chapter("The pod as injected: the difference")
	d.command("injector render -f pod.yaml -o diff")
	values, err := d.Kube.CoreV1().ConfigMaps(harness.InstallNamespace).Get(ctx, harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the injector's configuration: %w", err)
	}
	dir, err := os.MkdirTemp("", "latchkey-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{"config.yaml": values.Data["config.yaml"], "pod.yaml": manifest} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	render := exec.CommandContext(ctx, filepath.Join(harness.Checkout(), "bin", "injector"), "render", "-f", "pod.yaml", "--config", "config.yaml", "-o", "diff")
	render.Dir, render.Stderr = dir, os.Stderr
	diff, err := render.Output()
	if err != nil {
		return fmt.Errorf("rendering the pod offline: %w", err)
	}
	d.diff(string(diff))

	agent := d.pod.Spec.InitContainers
	if len(agent) != 1 || agent[0].Name != "latchkey-agent" {
		return fmt.Errorf("the stored pod has init containers %v, want latchkey-agent alone", names(agent))
	}
	for _, m := range d.pod.Spec.Containers[0].VolumeMounts {
		if m.Name == "latchkey-secrets" {
			d.good("the API server stored it so: one container, two volumes, one read-only mount at %s", m.MountPath)
			return nil
		}
	}
	return errors.New("the stored pod's app has no mount of latchkey-secrets")
}

func (d *demo) read(ctx context.Context) error {
	d.chapter("The file as the app reads it")
	d.command("kubectl logs shop -c shop")
	const want = "password='first'\nusername='shop'\n"
	log, err := d.WaitLog(ctx, namespace, app, app, "username=")
	if err != nil {
		return err
	}
	d.code(log)
	if log != want {
		return fmt.Errorf("the app read %q, want %q", log, want)
	}
	d.good("the file was there before the app's first line")
	return nil
}

func (d *demo) audited(ctx context.Context) error {
	d.chapter("What it cost Vault: the audit log")
	entries, err := d.callsSince(ctx, d.applied)
	if err != nil {
		return err
	}
	var calls []string
	for _, e := range entries {
		d.line("%s  %-7s %s", e.Time.Format("15:04:05.000"), e.Operation, e.Path)
		calls = append(calls, e.Path)
	}
	// The app may have been ready long enough for a refresh: that is another read.
	if len(calls) < 3 || calls[0] != "auth/kubernetes/login" || !strings.HasPrefix(calls[1], "sys/internal/ui/mounts/kv") || calls[2] != "kv/data/demo/db" {
		return fmt.Errorf("the pod's calls to Vault were %q, want one login, one mount probe, one read", calls)
	}
	for _, again := range calls[3:] {
		if again != "kv/data/demo/db" {
			return fmt.Errorf("the pod's calls to Vault were %q, want only reads of kv/data/demo/db after the first three", calls)
		}
	}
	d.good("one login, one mount probe, one read (again every %s)", d.pod.Annotations["latchkey.dev/refresh"])
	return nil
}

func (d *demo) callsSince(ctx context.Context, since time.Time) ([]harness.AuditEntry, error) {
	entries, err := d.Audit(ctx, namespace)
	if err != nil {
		return nil, err
	}
	for len(entries) > 0 && entries[0].Time.Before(since) {
		entries = entries[1:]
	}
	return entries, nil
}

func (d *demo) changed(ctx context.Context) error {
	d.chapter("The secret changes in Vault, and the file with it")
	d.command("vault kv put kv/demo/db username=shop password=second")
	began := time.Now()
	if err := d.put(ctx, "second"); err != nil {
		return err
	}
	log, err := d.WaitLog(ctx, namespace, app, app, "password='second'\nusername=")
	if err != nil {
		return err
	}
	d.command("kubectl logs shop -c shop")
	d.code(log)
	d.good("the running app saw it after %s", since(began))
	return nil
}

func (d *demo) deleted(ctx context.Context) error {
	d.chapter("The pod ends, and its token with it")
	accessor, err := d.accessor(ctx)
	if err != nil {
		return err
	}
	d.command("kubectl delete pod shop")
	began := time.Now()
	if err := d.Kube.CoreV1().Pods(namespace).Delete(ctx, app, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting the pod: %w", err)
	}
	if err := d.WaitGone(ctx, namespace, app); err != nil {
		return err
	}
	d.good("the pod is gone after %s", since(began))
	entries, err := d.callsSince(ctx, began)
	if err != nil {
		return err
	}
	revoked := false
	for _, e := range entries {
		if e.Path == "auth/token/revoke-self" {
			d.line("%s  %-7s %s", e.Time.Format("15:04:05.000"), e.Operation, e.Path)
			revoked = true
		}
	}
	if !revoked {
		return errors.New("the audit log holds no revocation of the pod's token")
	}
	if _, err := d.Root.Auth().Token().LookupAccessorWithContext(ctx, accessor); err == nil {
		return errors.New("the token of the deleted pod is still known to Vault")
	}
	d.good("Vault no longer knows the pod's token")
	return d.DeleteNamespace(ctx, namespace)
}

// accessor finds the one token that the pod's login made.
func (d *demo) accessor(ctx context.Context) (string, error) {
	list, err := d.Root.Logical().ListWithContext(ctx, "auth/token/accessors")
	if err != nil || list == nil {
		return "", fmt.Errorf("listing Vault's tokens: %w", err)
	}
	var found []string
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		accessor, _ := key.(string)
		token, err := d.Root.Auth().Token().LookupAccessorWithContext(ctx, accessor)
		if err != nil {
			continue // it has ended meanwhile
		}
		if meta, ok := token.Data["meta"].(map[string]any); ok && meta["service_account_namespace"] == namespace {
			found = append(found, accessor)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("found %d tokens of the pod in Vault, want 1", len(found))
	}
	return found[0], nil
}

func names(containers []corev1.Container) (names []string) {
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return names
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }
