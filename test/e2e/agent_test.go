package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// A pod costs Vault one login, one question per KV mount and one read per
// secret, however many files want it; when it ends its token is revoked.
func TestCallsToVault(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.VaultWrite("kv1/"+s.Name+"/old", map[string]any{"answer": 42})
	s.Create(pod{name: "app", script: `cat /vault/secrets/app.env /vault/secrets/app.json /vault/secrets/user /vault/secrets/conf.d/app.conf /vault/secrets/old.json` + stay,
		annotations: fmt.Sprintf(`latchkey.dev/inject: "true"
latchkey.dev/role: %[1]s
latchkey.dev/log-level: debug
latchkey.dev/files: |
  - {path: app.env, secret: kv/%[1]s/app, format: env}
  - {path: app.json, secret: kv/data/%[1]s/app, format: json}
  - {path: user, secret: kv/%[1]s/app, format: raw, key: USER}
  - {path: old.json, secret: kv1/%[1]s/old, format: json}
  - path: conf.d/app.conf
    template: |
      {{ with secret "kv/data/%[1]s/app" }}user={{ .Data.data.USER | trimSpace }}{{ end }}
`, s.Name)}.String())
	p := s.WaitPod("app", "ready", harness.Ready)
	const want = appEnv +
		"{\n  \"PASSWORD\": \"" + password + "\",\n  \"USER\": \"app\"\n}\n" +
		"app" +
		"user=app\n" +
		"{\n  \"answer\": 42\n}\n"
	if got := s.WaitLog("app", "app", want[len(want)-20:]); got != want {
		t.Errorf("the app read\n%s\nwant\n%s", got, want)
	}

	calls := s.Audit()
	slices.Sort(calls)
	wantCalls := []string{
		"read kv/data/" + s.Name + "/app",
		"read kv1/" + s.Name + "/old",
		"read sys/internal/ui/mounts/kv/data/" + s.Name + "/app",
		"read sys/internal/ui/mounts/kv1/" + s.Name + "/old",
		"update auth/kubernetes/login",
	}
	if len(calls) != len(wantCalls) {
		t.Errorf("calls to Vault:\n%s\nwant\n%s", strings.Join(calls, "\n"), strings.Join(wantCalls, "\n"))
	}
	for i := range min(len(calls), len(wantCalls)) {
		// Which of a mount's paths the question names is the agent's choice.
		if mount, _, ok := strings.Cut(wantCalls[i], "/data/"); calls[i] != wantCalls[i] && !(ok && strings.HasPrefix(calls[i], mount)) {
			t.Errorf("call %q, want %q", calls[i], wantCalls[i])
		}
	}

	if err := s.Kube.CoreV1().Pods(s.Name).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.WaitGone(harness.Patience, p.Name)
	if calls := s.Audit(); calls[len(calls)-1] != "update auth/token/revoke-self" {
		t.Errorf("the last call of a deleted pod was %q, want its token revoked", calls[len(calls)-1])
	}
}

func TestChangedSecretReachesTheRunningApp(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Secret("other", map[string]any{"stays": "same-5f0c2a"})
	s.Create(pod{name: "app", annotations: fmt.Sprintf(`latchkey.dev/inject: "true"
latchkey.dev/role: %[1]s
latchkey.dev/log-level: debug
latchkey.dev/refresh: 5s
latchkey.dev/files: |
  - {path: app.env, secret: kv/%[1]s/app, format: env}
  - {path: other.json, secret: kv/%[1]s/other, format: json}
`, s.Name), script: `inode() { set -- $(ls -iL /vault/secrets/other.json); echo $1; }
before=$(inode)
until grep -q changed /vault/secrets/app.env; do sleep 1; done
cat /vault/secrets/app.env
echo "inodes $before $(inode)"` + stay}.String())
	s.WaitPod("app", "ready", harness.Ready)
	s.Secret("app", map[string]any{"PASSWORD": changed})
	got := s.WaitLog("app", "app", "inodes")
	var before, after int
	if _, err := fmt.Sscanf(got, changedEnv+"inodes %d %d", &before, &after); err != nil {
		t.Fatalf("the app printed %q: %v", got, err)
	}
	if before != after {
		t.Errorf("the unchanged file's inode went from %d to %d: it was written again", before, after)
	}
}

// An agent's container that dies comes back with the token it had.
func TestRestartedAgentKeepsItsToken(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	p := s.WaitPod("app", "ready", harness.Ready)
	s.Signal(p, "latchkey-agent", syscall.SIGKILL)
	p = s.WaitPod("app", "ready again with a restarted agent", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return harness.Ready(p) && a.RestartCount == 1 && a.Ready
	})
	if p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the app was restarted with its agent")
	}
	logins := 0
	for _, call := range s.Audit() {
		if call == "update auth/kubernetes/login" {
			logins++
		}
	}
	if logins != 1 {
		t.Errorf("%d logins, want the one of the first start:\n%s", logins, strings.Join(s.Audit(), "\n"))
	}
	if got := s.Exec("app", "app", "cat", "/vault/secrets/app.env"); !strings.HasPrefix(got, "PASSWORD=") {
		t.Errorf("the file after the agent's restart is %q", got)
	}
}

// Neither the pods, nor the agents' logs, nor their events hold a secret: not
// of an agent that works, and not of one that has to say why it does not.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	s := suite.Space(t)
	s.Role("app")
	s.Secret("app", map[string]any{"PASSWORD": "fixture-5f0c2a-do-not-print"})
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + " > /dev/null" + stay}.String())
	waiting := map[string][2]string{
		"keyless": {"format: env}", "format: raw, key: ABSENT}"},
		"refused": {"role: " + s.Name, "role: no-such-role"},
	}
	for name, change := range waiting {
		annotations := strings.Replace(wants(s.Name), change[0], change[1], 1) + "latchkey.dev/start-timeout: 15s\n"
		s.Create(pod{name: name, script: gated, annotations: annotations}.String())
	}

	shown := map[string]any{
		"pod app":                s.WaitPod("app", "ready", harness.Ready),
		"the agent's log in app": s.Logs("app", "latchkey-agent"),
	}
	for name := range waiting {
		s.WaitEvent("Pod", name, "Unhealthy")
		// What is told a second time is told at this level.
		shown["the agent's log in "+name] = s.WaitLog(name, "latchkey-agent", `"level":"DEBUG"`)
		shown["pod "+name] = s.WaitPod(name, "one whose agent gave up", func(p *corev1.Pod) bool {
			a := harness.Agent(p)
			return a != nil && a.LastTerminationState.Terminated != nil
		})
	}
	events, err := s.Kube.CoreV1().Events(s.Name).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shown["an Event"] = events.Items
	for what, object := range shown {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range suite.Secrets.In(string(text)) {
			t.Errorf("%s, %s", what, found)
		}
	}
}
