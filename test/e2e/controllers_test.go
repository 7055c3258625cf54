package e2e

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// Whatever makes a pod, it is injected and runs. (Deployments, StatefulSets and
// Jobs have tests of their own.)
func TestPodsOfEveryController(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	template := pod{annotations: wants(s.Name), script: readFirst + stay}.template()
	ends := pod{annotations: wants(s.Name), script: readFirst, spec: "restartPolicy: Never"}.template()
	labelled := func(text, kind string) string { return strings.Replace(text, "{app: test}", "{app: "+kind+"}", 1) }
	const selector = "  selector: {matchLabels: {app: "

	s.Create("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: daemon}\nspec:\n" + selector + "daemon}}\n  template:\n" + indent(4, labelled(template, "daemon")))
	s.Create("apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: replica}\nspec:\n" + selector + "replica}}\n  template:\n" + indent(4, labelled(template, "replica")))
	s.Create("apiVersion: v1\nkind: ReplicationController\nmetadata: {name: controller}\nspec:\n  selector: {app: controller}\n  template:\n" + indent(4, labelled(template, "controller")))
	s.Create("apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: cron}\nspec:\n  schedule: '0 0 1 1 *'\n  jobTemplate:\n    spec:\n      template:\n" + indent(8, labelled(ends, "cron")))
	if _, stderr, err := s.KubectlOutput("", "create", "job", "by-hand", "--from=cronjob/cron"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	generated := s.Create(strings.Replace(pod{name: "generated-", annotations: wants(s.Name), script: readFirst + stay}.String(), "  name: generated-", "  generateName: generated-", 1))
	// Only the pod's own DNS settings let it find Services in the node's network.
	s.Create(pod{name: "host", annotations: wants(s.Name), spec: "hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet", script: readFirst + stay}.String())

	ready := []string{generated.GetName(), "host"}
	for _, kind := range []string{"daemon", "replica", "controller"} {
		ready = append(ready, s.PodNames("app="+kind, 1)...)
	}
	for _, name := range ready {
		s.WaitPod(name, "ready", harness.Ready)
		wantLog(s, name)
	}
	done := s.PodNames("app=cron", 1)[0]
	s.WaitPod(done, "completed", harness.Succeeded)
	wantLog(s, done)
}

// What is asked for on trial is shown with the agent, and leaves nothing.
func TestDryRunLeavesNothing(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	if u := s.DryRun(pod{name: "trial", annotations: wants(s.Name), script: "true"}.String()); !strings.Contains(toJSON(s, u), `"latchkey-agent"`) {
		t.Errorf("the dry run shows no agent: %v", u)
	}
	if _, err := s.Kube.CoreV1().Pods(s.Name).Get(t.Context(), "trial", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the dry run the pod is there (%v)", err)
	}
	if calls := s.Audit(); len(calls) != 0 {
		t.Errorf("the dry run cost Vault %q", calls)
	}
}

// The kubelet runs a static pod as its file says and shows it as a mirror pod,
// which therefore must stay as it is.
func TestMirrorPodIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	mirror := pod{name: "static", annotations: wants(s.Name) + "kubernetes.io/config.mirror: 0f5bd8b8\n", spec: "nodeName: " + cluster.NodeName, script: "true"}.String()
	mirror = strings.Replace(mirror, "  serviceAccountName: app\n", "", 1) // which such a pod may not have
	if shown := toJSON(s, s.DryRun(mirror)); strings.Contains(shown, "latchkey-") || strings.Contains(shown, "latchkey.dev/status") {
		t.Errorf("the mirror pod would be changed: %s", shown)
	}
}
