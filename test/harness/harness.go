// Package harness is what the suites and the demo share: a Kubernetes with a
// Vault in it, Latchkey installed as its users install it, and waiting that is
// a watch, never a sleep.
package harness

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/leaks"
)

// Cluster is the cluster under test and the clients for it.
type Cluster struct {
	*cluster.Cluster
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	Root    *vault.Client // of Vault, with the root token
	// Secrets are what the tests' fixtures hold that may be shown nowhere.
	Secrets *leaks.Secrets

	mapper meta.RESTMapper
	// steady is held by who creates, and by Switch alone.
	steady sync.RWMutex
}

// Open connects to the box, or to the cluster that LATCHKEY_TEST_KUBECONFIG
// names, and says which one it is.
func Open() (*Cluster, error) {
	under, err := cluster.Connect()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "using %s\n", under)
	c := &Cluster{Cluster: under, Secrets: leaks.New()}
	// Tests run side by side; the client's own throttle would be what they measure.
	c.REST.QPS, c.REST.Burst = -1, -1
	if c.Kube, err = kubernetes.NewForConfig(c.REST); err != nil {
		return nil, fmt.Errorf("making a Kubernetes client: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.REST); err != nil {
		return nil, fmt.Errorf("making a Kubernetes client: %w", err)
	}
	groups, err := restmapper.GetAPIGroupResources(c.Kube.Discovery())
	if err != nil {
		return nil, fmt.Errorf("asking the API server for its resources: %w", err)
	}
	c.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	if c.Root, err = under.Vault(); err != nil {
		return nil, fmt.Errorf("connecting to Vault: %w", err)
	}
	return c, nil
}

// Space is one test's namespace. It goes when the test ends.
type Space struct {
	*Cluster
	testing.TB
	Name string
}

// Space makes a namespace for one test, with the labels given as key=value.
func (c *Cluster) Space(t testing.TB, labels ...string) *Space {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{}}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		ns.Labels[key] = value
	}
	ns, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("creating a namespace: %v", err)
	}
	s := &Space{Cluster: c, TB: t, Name: ns.Name}
	t.Cleanup(func() {
		if t.Failed() {
			s.report()
		}
		// Not waited for: what is left of it disturbs no other test.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Kube.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting namespace %s: %v", ns.Name, err)
		}
	})
	return s
}

// ServiceAccount makes a ServiceAccount whose tokens the API server will issue.
func (s *Space) ServiceAccount(name string) {
	s.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := s.Kube.CoreV1().ServiceAccounts(s.Name).Create(s.Context(), sa, metav1.CreateOptions{}); err != nil {
		s.Fatalf("creating ServiceAccount %s: %v", name, err)
	}
}

// report prints what a person would look at after a failure.
func (s *Space) report() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pods, err := s.Kube.CoreV1().Pods(s.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.Logf("listing pods of %s: %v", s.Name, err)
		return
	}
	for i := range pods.Items {
		s.Log(describe(&pods.Items[i]))
		for _, c := range pods.Items[i].Spec.InitContainers {
			log, err := s.Cluster.Logs(ctx, s.Name, pods.Items[i].Name, c.Name)
			if err != nil {
				log = err.Error()
			}
			s.Logf("log of %s/%s:\n%s", pods.Items[i].Name, c.Name, log)
		}
	}
	events, err := s.Kube.CoreV1().Events(s.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.Logf("listing events of %s: %v", s.Name, err)
		return
	}
	for _, e := range events.Items {
		s.Logf("event %s %s/%s: %s: %s", e.LastTimestamp.Format(time.TimeOnly), e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
	}
}
