package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// These tests change the injector that all others use, so none of them runs
// beside another test.

// rate is how many pods a second are asked for while something happens.
const rate = 200

// slowRate is that where other tests run meanwhile.
const slowRate = 25

const selectInjector = "app.kubernetes.io/name=" + harness.InjectorName

// A new release, a changed setting and a drained node cost nobody a pod.
func TestRollingRestartUnderLoad(t *testing.T) {
	lossless(t, rate, func(s *harness.Space) {
		old := injectors(t)
		kubectl(t, "rollout", "restart", "deployment/"+harness.InjectorName)
		waitReplaced(t, old)
	})
}

// A replica that goes while the others are being replaced costs nobody a pod.
func TestReplicaDeletedDuringRestartUnderLoad(t *testing.T) {
	lossless(t, rate, func(s *harness.Space) {
		old := injectors(t)
		kubectl(t, "rollout", "restart", "deployment/"+harness.InjectorName)
		kubectl(t, "delete", "pod", "--wait=false", old[rand.IntN(len(old))].Name)
		waitReplaced(t, old)
	})
}

// A replica that is killed takes with it what it was answering, and what is
// sent to it until the Service knows: the API server asks no other replica.
// Nothing is let through uninjected, and it is over in moments.
func TestReplicaKilledUnderLoad(t *testing.T) {
	for _, replica := range injectors(t) {
		s := suite.Space(t)
		load := s.Load(rate)
		waitAnswered(t, load, rate)
		process, err := harness.ProcessOf(&replica, "injector")
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(process, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitPod(t, replica.Name, "ready after its restart", func(p *corev1.Pod) bool {
			return harness.Ready(p) && p.Status.ContainerStatuses[0].RestartCount > replica.Status.ContainerStatuses[0].RestartCount
		})
		waitAnswered(t, load, rate)
		counts := load.Stop()
		t.Logf("%s killed: %s\n  refused within %s", replica.Name, counts, counts.Window().Round(time.Millisecond))
		wantNothingUninjected(t, counts)
		if counts.Window() > 5*time.Second {
			t.Errorf("pods were refused for %s after one replica of two was killed", counts.Window())
		}
	}
}

// Whoever keeps the certificate, it and its CA change without costing a pod:
// neither of those that are asked for here, nor of the tests that run meanwhile.
// Most of the time is the minute for which a new CA rests before it is used. What
// takes the installed injector as the suite installed it cannot run beside this.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	t.Parallel()
	suite.CertManager(t)
	// One of an earlier run would be served until the new one is there. Later
	// means after the suite's install: until then somebody makes them anew.
	clear := func() {
		kubectlLater(t, "delete", "--ignore-not-found", "secret", "latchkey-injector-ca", "latchkey-root", "from-cert-manager", "from-vault", "my-own", "vault-ca")
	}
	clear()
	t.Cleanup(clear)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := suite.Install(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("self-signed", selfSigned)
	t.Run("vault", vaultIssuer)
	t.Run("bring-your-own", bringYourOwn)
	t.Run("self-managed", selfManaged)
}

// With cert-manager and deploy/certs/self-signed.
func selfSigned(t *testing.T) {
	apply(t, "self-signed", nil)
	install(t, "--values", certsFile("self-signed", "values.yaml"), "--set", "certs.secretName=from-cert-manager")

	lossless(t, slowRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		leaf := watch.waitRotated(before, false)

		// A new root signs the leaf's next one: its old one stays trusted.
		suite.Renew(t, harness.InstallNamespace, "latchkey-root")
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		watch.waitRotated(leaf, true)
		watch.end()
	})
}

// With cert-manager, Vault as the CA and deploy/certs/vault, and a new root in Vault.
func vaultIssuer(t *testing.T) {
	setUpPKI(t)
	kubectl(t, "create", "secret", "generic", "vault-ca", "--from-literal=ca.crt="+string(suite.VaultCA))
	// The box's cert-manager has no search list of DNS, as a pod has.
	apply(t, "vault", strings.NewReplacer("vault.vault.svc:", "vault.vault.svc."+cluster.Domain+":"))
	// Nor is it a pod with a ServiceAccount, so its right to the token is asked for.
	mayLogIn := []string{"auth", "can-i", "create", "--subresource=token", "--as=system:serviceaccount:cert-manager:cert-manager"}
	kubectl(t, append(mayLogIn, "serviceaccounts/latchkey-injector-issuer")...)
	if suite.Kubectl(t.Context(), harness.InstallNamespace, append(mayLogIn, "serviceaccounts/latchkey-injector")...) == nil {
		t.Error("cert-manager may have tokens of the injector's ServiceAccount, want those of its own alone")
	}
	install(t, "--values", certsFile("vault", "values.yaml"), "--set", "certs.secretName=from-vault")

	lossless(t, slowRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		s.VaultWrite("pki-latchkey/root/rotate/internal", map[string]any{"common_name": "latchkey-root-2", "key_type": "ec", "ttl": "26280h"})
		s.VaultWrite("pki-latchkey/root/replace", map[string]any{"default": "next"})
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		for _, leaf := range watch.waitRotated(before, true) {
			if leaf.Issuer.CommonName != "latchkey-root-2" {
				t.Errorf("a replica serves a certificate of %q, want Vault's new root", leaf.Issuer)
			}
		}
		watch.end()
	})
}

// Without help: deploy/certs/bring-your-own, step by step.
func bringYourOwn(t *testing.T) {
	oldCA, newCA := makeCA(t, "old"), makeCA(t, "new")
	storeServing(t, oldCA)
	values := func(bundle ...string) []string {
		file := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(file, []byte(strings.Join(bundle, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"--values", certsFile("bring-your-own", "values.yaml"), "--set-file", "certs.caBundle=" + file, "--set", "certs.secretName=my-own"}
	}
	install(t, values(oldCA.pem)...)

	lossless(t, slowRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		install(t, values(oldCA.pem, newCA.pem)...)
		storeServing(t, newCA)
		watch.waitRotated(before, true)
		install(t, values(newCA.pem)...)
		watch.end()
	})
}

// Without cert-manager: the injector keeps its CA, with any number of replicas.
func selfManaged(t *testing.T) {
	const leafDuration = time.Minute // the least that there is
	install(t, "--set", "certs.mode=self-managed", "--set", "certs.leafDuration="+leafDuration.String())

	lossless(t, slowRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		// Each replica has a leaf of its own, and takes the next before its end.
		leaf := watch.waitRotated(before, false)
		kubectl(t, "delete", "secret", "latchkey-injector-ca")
		watch.waitRotated(leaf, true)
		watch.end()
	})
}

// lossless runs f while pods are created, and fails if one of them was refused
// or went without its agent.
func lossless(t *testing.T, perSecond int, f func(s *harness.Space)) {
	t.Helper()
	s := suite.Space(t)
	load := s.Load(perSecond)
	defer func() { // also where f gives up
		counts := load.Stop()
		t.Log(counts)
		wantNothingUninjected(t, counts)
		if n := len(counts.Refusals); n > 0 {
			t.Errorf("%d pods were refused within %s, the first: %s", n, counts.Window(), counts.Refusals[0].Error)
		}
	}()
	waitAnswered(t, load, perSecond)
	f(s)
	waitAnswered(t, load, perSecond)
}

func wantNothingUninjected(t *testing.T, c harness.Counts) {
	t.Helper()
	if c.Uninjected > 0 || c.Touched > 0 || c.Injected == 0 || c.Plain == 0 {
		t.Errorf("%d annotated pods were let through uninjected, %d plain ones were injected; want none (of %d and %d as they should be)",
			c.Uninjected, c.Touched, c.Injected, c.Plain)
	}
	for _, r := range c.Refusals {
		if r.Plain {
			t.Errorf("a pod without our annotations was refused: %s", r.Error)
			return
		}
	}
}

// waitAnswered waits until n more pods went as they should.
func waitAnswered(t *testing.T, load *harness.Load, n int) {
	t.Helper()
	start := load.Answered()
	poll(t, fmt.Sprintf("%d pods to be answered", n), func() bool { return load.Answered() >= start+n })
}

// poll asks until done says so.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.After(harness.Patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waiting for %s", what)
		}
	}
}

// kubectl runs kubectl in the injector's namespace.
func kubectl(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if err := suite.Kubectl(ctx, harness.InstallNamespace, args...); err != nil {
		t.Fatal(err)
	}
}

// kubectlLater is kubectl for when the test has ended.
func kubectlLater(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if err := suite.Kubectl(ctx, harness.InstallNamespace, args...); err != nil {
		t.Error(err)
	}
}

// install upgrades the injector as a user does.
func install(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	// What one way of keeping a certificate has written, the next takes over.
	if err := suite.InstallWith(ctx, append(args, "--force-conflicts")...); err != nil {
		t.Fatal(err)
	}
}

func certsFile(elem ...string) string {
	return filepath.Join(append([]string{harness.Checkout(), "deploy", "certs"}, elem...)...)
}

// apply applies the manifests of one folder of deploy/certs, after the edits
// that its README asks for, and deletes what they made when the test ends.
func apply(t *testing.T, folder string, edits *strings.Replacer) {
	t.Helper()
	text, err := os.ReadFile(certsFile(folder, "issuer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if edits == nil {
		edits = strings.NewReplacer()
	}
	file := filepath.Join(t.TempDir(), "issuer.yaml")
	if err := os.WriteFile(file, []byte(edits.Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", file)
	t.Cleanup(func() { kubectlLater(t, "delete", "--ignore-not-found", "-f", file) })
}

// injectors are the replicas that serve.
func injectors(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := suite.Kube.CoreV1().Pods(harness.InstallNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: selectInjector})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !harness.Ready(&p) || p.DeletionTimestamp != nil })
}

// waitReplaced waits until others serve in the place of the old replicas, and
// the old ones have served their last request.
func waitReplaced(t *testing.T, old []corev1.Pod) {
	t.Helper()
	kubectl(t, "rollout", "status", "deployment/"+harness.InjectorName, "--timeout=2m")
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for _, p := range old {
		if err := suite.WaitGone(ctx, harness.InstallNamespace, p.Name); err != nil {
			t.Fatal(err)
		}
	}
}

func waitPod(t *testing.T, name, what string, done func(*corev1.Pod) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	if _, err := suite.WaitPod(ctx, harness.InstallNamespace, name, what, done); err != nil {
		t.Fatal(err)
	}
}
