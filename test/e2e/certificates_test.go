package e2e

import (
	"context"
	"flag"
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

	"github.com/latchkey-dev/latchkey/test/harness"
)

// These tests change the injector that all others use, so none of them runs
// beside another test.

// rate is how many pods a second are asked for while something happens.
const rate = 200

// rotationRate is that while certificates rotate, which takes minutes.
var rotationRate = flag.Int("rotation-rate", 100, "how many pods a second to ask for while certificates rotate")

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
