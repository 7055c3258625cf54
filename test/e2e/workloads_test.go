package e2e

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// aSpace is a namespace with a ServiceAccount app, a role for it and one secret.
func aSpace(t *testing.T, labels ...string) *harness.Space {
	t.Helper()
	s := suite.Space(t, labels...)
	s.Role("app")
	s.Secret("app", map[string]any{"USER": "app", "PASSWORD": password})
	return s
}

// The first thing that each app does is to read its file; a missing one ends it.
const readFirst = "set -e; cat /vault/secrets/app.env"

func TestDeploymentReadsItsFileFirst(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	p := pod{annotations: wants(s.Name), script: readFirst + stay}
	s.Create("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: test}}\n  template:\n" + indent(4, p.template()))
	for _, name := range s.PodNames("app=test", 2) {
		s.WaitPod(name, "ready", harness.Ready)
		wantLog(s, name)
	}
}

func TestStatefulSetReadsItsFileFirst(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	p := pod{annotations: wants(s.Name), script: readFirst + stay}
	s.Create("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: app}\nspec:\n  serviceName: app\n  selector: {matchLabels: {app: test}}\n  template:\n" + indent(4, p.template()))
	s.WaitPod("app-0", "ready", harness.Ready)
	wantLog(s, "app-0")
}

func TestJobReadsItsFileAndCompletes(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	p := pod{annotations: wants(s.Name), script: readFirst, spec: "restartPolicy: Never"}
	s.Create("apiVersion: batch/v1\nkind: Job\nmetadata: {name: app}\nspec:\n  backoffLimit: 0\n  template:\n" + indent(4, p.template()))
	name := s.PodNames("app=test", 1)[0]
	done := s.WaitPod(name, "completed", harness.Succeeded)
	wantLog(s, name)
	if a := harness.Agent(done); a == nil || a.State.Terminated == nil || a.State.Terminated.ExitCode != 0 {
		t.Errorf("the agent of a completed Job: %+v, want exit code 0", a)
	}
	s.WaitJob("app", "complete", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 })
}

// wantLog checks that a container, the app's where none is named, printed the
// file that wants asks for.
func wantLog(s *harness.Space, pod string, container ...string) {
	s.Helper()
	c := "app"
	if len(container) > 0 {
		c = container[0]
	}
	if got := s.WaitLog(pod, c, "USER="); got != appEnv {
		s.Errorf("%s of %s printed %q, want %q", c, pod, got, appEnv)
	}
}

func TestPodWithoutAPITokenIsInjected(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), spec: "automountServiceAccountToken: false", script: readFirst + stay}.String())
	p := s.WaitPod("app", "ready", harness.Ready)
	for _, v := range p.Spec.Volumes {
		if strings.HasPrefix(v.Name, "kube-api-access-") {
			t.Errorf("volume %s: the pod asked for no API token", v.Name)
		}
	}
	wantLog(s, "app")
}

func TestSecretsAreReadOnlyInTheApp(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	s.WaitPod("app", "ready", harness.Ready)
	for _, command := range []string{"echo x > /vault/secrets/new", "rm /vault/secrets/app.env", "echo x >> /vault/secrets/app.env"} {
		out, err := s.Cluster.Exec(t.Context(), s.Name, "app", "app", "sh", "-c", command)
		if err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%q in the app: %v, printed %q, want it refused by a read-only file system", command, err, out)
		}
	}
	if out := s.Exec("app", "app", "find", "/vault/secrets/"); strings.Contains(out, "private") {
		t.Errorf("the app sees the agent's private files:\n%s", out)
	}
}

// The kubelet rewrites $(NAME) and $$ in what a container is started with.
func TestDollarsInATemplateArriveUntouched(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	const dollars = `$$ $(HOME) $(LATCHKEY_CONFIG) $HOME \u0024 $`
	s.Create(pod{name: "app", script: "cat /vault/secrets/dollars; echo; echo end" + stay, annotations: `latchkey.dev/inject: "true"
latchkey.dev/role: ` + s.Name + `
latchkey.dev/log-level: debug
latchkey.dev/files: |
  - path: dollars
    template: '` + dollars + `'
`}.String())
	s.WaitPod("app", "ready", harness.Ready)
	if got := strings.TrimSuffix(s.WaitLog("app", "app", "\nend\n"), "\nend\n"); got != dollars {
		t.Errorf("the template arrived as %q, want %q", got, dollars)
	}
}

func TestUnannotatedPodsAreLeftAlone(t *testing.T) {
	s := aSpace(t)
	plain := []string{
		pod{name: "plain", script: "true"}.String(),
		pod{name: "other", script: "true", annotations: "example.com/inject: \"true\"\nlatchkey.dev.example.com/inject: \"true\"\n"}.String(),
		pod{name: "status", script: "true", annotations: "latchkey.dev/status: injected\n"}.String(),
	}
	var with []string
	for _, text := range plain {
		with = append(with, stored(s, text))
	}
	restore := removeWebhook(t)
	defer restore()
	for i, text := range plain {
		if without := stored(s, text); without != with[i] {
			t.Errorf("with the webhook the API server stores\n%s\nand without it\n%s", with[i], without)
		}
	}
}

// stored is what the API server would store, but for what differs each time.
func stored(s *harness.Space, text string) string {
	u := s.DryRun(text)
	u.SetUID("")
	u.SetCreationTimestamp(metav1.Time{})
	u.SetManagedFields(nil)
	// The name of the API token's volume is drawn anew for each pod.
	text = toJSON(s, u)
	if i := strings.Index(text, "kube-api-access-"); i >= 0 {
		text = strings.ReplaceAll(text, text[i:i+len("kube-api-access-xxxxx")], "kube-api-access")
	}
	return text
}

func toJSON(s *harness.Space, u *unstructured.Unstructured) string {
	s.Helper()
	out, err := u.MarshalJSON()
	if err != nil {
		s.Fatal(err)
	}
	return string(out)
}
