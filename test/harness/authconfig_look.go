package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/exec"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// showLogs prints what authconfig's pods have said, and before they were restarted.
func (a *Authconfig) showLogs(ctx context.Context) {
	pods, err := a.pods(ctx)
	if err != nil {
		a.Log(err)
	}
	for _, p := range pods {
		for _, previous := range []bool{true, false} {
			log, err := a.Kube.CoreV1().Pods(a.Name).GetLogs(p.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(ctx)
			if err == nil {
				a.Logf("log of %s:\n%s", p.Name, log)
			}
		}
	}
}

// lookForSecrets returns an error that says which secrets stand in what authconfig
// counts and notes.
func (a *Authconfig) lookForSecrets(ctx context.Context) error {
	var errs []error
	look := func(what, text string) {
		for _, found := range a.Secrets.In(text) {
			errs = append(errs, fmt.Errorf("%s of authconfig in %s, %s", what, a.Name, found))
		}
	}
	maps, err := a.Kube.CoreV1().ConfigMaps(a.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing ConfigMaps: %w", err)
	}
	for _, m := range maps.Items {
		for key, text := range m.Data {
			look("ConfigMap "+m.Name+", key "+key, text)
		}
	}
	pods, err := a.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		text, err := a.metricsIfReady(ctx, p.Name)
		if err != nil {
			return fmt.Errorf("reading the metrics of %s: %w", p.Name, err)
		}
		look("the metrics", text)
	}
	return errors.Join(errs...)
}

// metricsIfReady is what a pod counts; nothing where it is not ready. One that has
// just ended is still called so for a moment.
func (a *Authconfig) metricsIfReady(ctx context.Context, name string) (text string, err error) {
	pods := a.Kube.CoreV1().Pods(a.Name)
	err = poll(ctx, func() error {
		p, err := pods.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && !Ready(p) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := pods.ProxyGet("http", name, "8080", "metrics", nil).DoRaw(ctx)
		text = string(data)
		return err
	})
	return text, err
}

func (a *Authconfig) pods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := a.Kube.CoreV1().Pods(a.Name).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + AuthconfigName})
	if err != nil {
		return nil, fmt.Errorf("listing authconfig's pods: %w", err)
	}
	return pods.Items, nil
}

// Pods are authconfig's.
func (a *Authconfig) Pods() []corev1.Pod {
	a.Helper()
	pods, err := a.pods(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	return pods
}

// Leader is the pod that holds the Lease.
func (a *Authconfig) Leader() *corev1.Pod {
	a.Helper()
	var leader *corev1.Pod
	a.Eventually("a leader", func() error {
		lease, err := a.Kube.CoordinationV1().Leases(a.Name).Get(a.Context(), AuthconfigName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil {
			return errors.New("the Lease has no holder")
		}
		for _, p := range a.Pods() {
			if p.DeletionTimestamp == nil && strings.HasPrefix(*lease.Spec.HolderIdentity, p.Name) {
				leader = &p
				return nil
			}
		}
		return fmt.Errorf("the Lease's holder is %q, which is no pod", *lease.Spec.HolderIdentity)
	})
	return leader
}

// Said is what authconfig's pods have said so far, but for one that has no log yet
// or is going.
func (a *Authconfig) Said() string {
	a.Helper()
	var all strings.Builder
	for _, p := range a.Pods() {
		if log, err := a.Cluster.Logs(a.Context(), a.Name, p.Name, "authconfig"); err == nil {
			all.WriteString(log)
		}
	}
	return all.String()
}

// WaitSaid waits until authconfig's log has all of parts in one line.
func (a *Authconfig) WaitSaid(parts ...string) string {
	a.Helper()
	var said string
	a.Eventually(fmt.Sprintf("a line with %q", parts), func() error {
		log := a.Said()
	lines:
		for line := range strings.Lines(log) {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			said = line
			return nil
		}
		return fmt.Errorf("the log is:\n%s", log)
	})
	return said
}

// Run runs one of authconfig's commands in its pod, with its rights, and returns
// what it printed and its exit code.
func (a *Authconfig) Run(command string, args ...string) (out string, code int) {
	a.Helper()
	out, err := a.Cluster.Exec(a.Context(), a.Name, a.Leader().Name, "authconfig",
		append([]string{"/authconfig", command, "--config=/etc/latchkey/config/config.yaml"}, args...)...)
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		return out, exit.Code
	case err != nil:
		a.Fatalf("%v\n%s", err, out)
	}
	return out, 0
}

// Record is what authconfig has noted in the cluster, empty where it has not yet.
func (a *Authconfig) Record() (r plan.Record) {
	a.Helper()
	m, err := a.Kube.CoreV1().ConfigMaps(a.Name).Get(a.Context(), AuthconfigName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return r
	}
	if err != nil {
		a.Fatalf("reading authconfig's record: %v", err)
	}
	if err := json.Unmarshal([]byte(m.Data["record.json"]), &r); err != nil {
		a.Fatalf("reading authconfig's record: %v\n%s", err, m.Data["record.json"])
	}
	return r
}

// Metrics is what the leader counts.
func (a *Authconfig) Metrics() string {
	a.Helper()
	var text []byte
	a.Eventually("the leader's metrics", func() (err error) {
		text, err = a.Kube.CoreV1().Pods(a.Name).ProxyGet("http", a.Leader().Name, "8080", "metrics", nil).DoRaw(a.Context())
		return err
	})
	return string(text)
}

// WaitMetric waits until a line of the metrics is there.
func (a *Authconfig) WaitMetric(line string) {
	a.Helper()
	a.Eventually("the metric "+line, func() error {
		if text := a.Metrics(); !strings.Contains("\n"+text, "\n"+line+"\n") {
			return fmt.Errorf("the metrics are:\n%s", text)
		}
		return nil
	})
}
