package e2e

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// untilThere is how the app of a pod with lifecycle sidecar begins, where
// nothing holds it back.
const untilThere = "until [ -e /vault/secrets/app.env ]; do sleep 1; done\n"

// Pod Security's strictest level admits a pod of each lifecycle whose own
// containers it would admit, and the pod runs.
func TestRestrictedNamespaceAcceptsEachLifecycle(t *testing.T) {
	t.Parallel()
	s := aSpace(t, "pod-security.kubernetes.io/enforce=restricted")
	// The app's container speaks for itself alone: what the agent needs, the
	// injector has to state.
	const restricted = "securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
	scripts := map[string]string{
		"native":  readFirst + stay,
		"init":    readFirst + stay,
		"sidecar": untilThere + readFirst + stay,
	}
	annotations := func(lifecycle string) string { return wants(s.Name) + "latchkey.dev/lifecycle: " + lifecycle + "\n" }
	for lifecycle, script := range scripts {
		s.Create(pod{name: lifecycle, annotations: annotations(lifecycle), script: script, app: restricted}.String())
	}
	job := pod{annotations: annotations("native"), script: readFirst, spec: "restartPolicy: Never", app: restricted}
	s.Create("apiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec:\n  backoffLimit: 0\n  template:\n" + indent(4, job.template()))

	for lifecycle := range scripts {
		p := s.WaitPod(lifecycle, "ready", harness.Ready)
		wantLog(s, lifecycle)
		agent := harness.Agent(p)
		switch {
		case agent == nil:
			t.Errorf("%s: there is no agent", lifecycle)
		case lifecycle != "init" && agent.State.Running == nil:
			t.Errorf("%s: the agent's state is %+v, want it running", lifecycle, agent.State)
		case lifecycle == "init" && (agent.State.Terminated == nil || agent.State.Terminated.ExitCode != 0):
			t.Errorf("init: the agent's state is %+v, want it ended with 0", agent.State)
		}
	}
	s.WaitJob("job", "complete", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 })
}
