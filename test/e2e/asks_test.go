package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// These are the things that a pod can ask of its agent, on a real kubelet and
// with a real Vault.

// filesOf are the annotations of a pod that wants these entries, written in
// YAML, read every five seconds.
func filesOf(s *harness.Space, entries string, more ...string) string {
	return fmt.Sprintf("latchkey.dev/inject: \"true\"\nlatchkey.dev/role: %s\nlatchkey.dev/log-level: debug\nlatchkey.dev/refresh: 5s\n%s\nlatchkey.dev/files: |\n%s",
		s.Name, strings.Join(more, "\n"), indent(2, entries))
}

// An init container's agent is done before the app starts, and leaves no token.
func TestInitLeavesNoToken(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name) + "latchkey.dev/lifecycle: init\n", script: readFirst + stay}.String())
	p := s.WaitPod("app", "ready", harness.Ready)
	if got := s.WaitLog("app", "app", "USER"); !strings.Contains(got, "USER='app'") {
		t.Errorf("the app read %q", got)
	}
	if a := harness.Agent(p); a.State.Terminated == nil || a.State.Terminated.ExitCode != 0 || a.RestartCount != 0 {
		t.Errorf("the agent is %+v", a)
	}
	if calls := s.Audit(); len(calls) != 4 || calls[3] != "update auth/token/revoke-self" {
		t.Errorf("calls to Vault: %q", calls)
	}
}

// Nothing holds back the app of a sidecar: it is there before its secret is, and
// the file comes to the directory that it has mounted.
func TestSidecarDoesNotHoldTheAppBack(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: filesOf(s, "- {path: late.env, secret: kv/"+s.Name+"/late, format: env}", "latchkey.dev/lifecycle: sidecar"),
		script: "ls -A /vault/secrets; echo waiting\nuntil [ -e /vault/secrets/late.env ]; do sleep 1; done\ncat /vault/secrets/late.env" + stay}.String())
	p := s.WaitPod("app", "started", harness.Started)
	if got := s.WaitLog("app", "app", "waiting"); got != "waiting\n" {
		t.Errorf("the app found %q", got)
	}
	if harness.Ready(p) {
		t.Error("the pod is ready without its files")
	}
	s.Secret("late", map[string]any{"CAME": changed})
	s.WaitLog("app", "app", "CAME='"+changed+"'")
	p = s.WaitPod("app", "ready", harness.Ready)
	if p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the app was restarted")
	}

	// Its container may start again while the agent is stopped.
	s.Signal(p, "latchkey-agent", syscall.SIGTERM)
	s.Signal(p, "app", syscall.SIGKILL)
	s.WaitPod("app", "ready after both started again", func(p *corev1.Pod) bool {
		a := harness.Agent(p)
		return harness.Ready(p) && a.RestartCount == 1 && a.Ready && p.Status.ContainerStatuses[0].RestartCount == 1
	})
}

// Several files of one answer change together; what is optional comes and goes;
// and the app is told of each change, and of nothing else.
func TestFilesOptionalAndRequest(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Secret("tls", map[string]any{"cert": "c1", "key": "k1-9d04e7"})
	entries := fmt.Sprintf(`- {path: tls, secret: kv/%[1]s/tls, files: {tls.crt: cert, tls.key: key}}
- {path: maybe, secret: kv/%[1]s/maybe, format: raw, key: k, optional: true}
- path: text
  template: '{{ with secret "kv/data/%[1]s/maybe" }}{{ .Data.data.k }}{{ end }}'
  optional: true
`, s.Name)
	const server = `mkdir -p /tmp/www/cgi-bin
cat >/tmp/www/cgi-bin/reload <<'END'
#!/bin/sh
cd /vault/secrets
echo "$REQUEST_METHOD: $(cat tls/tls.crt tls/tls.key) $(cat maybe text 2>/dev/null || echo none)." >/tmp/told
cat /tmp/told >>/tmp/log
printf 'Status: 200 OK\r\n\r\n'
END
chmod +x /tmp/www/cgi-bin/reload
: >/tmp/log
httpd -p 127.0.0.1:8080 -h /tmp/www
tail -f /tmp/log &`
	s.Create(pod{name: "app", script: server + stay, annotations: filesOf(s, entries,
		"latchkey.dev/notify: |\n  - http: {url: \"http://127.0.0.1:8080/cgi-bin/reload\"}")}.String())
	s.WaitPod("app", "ready", harness.Ready)
	s.Secret("tls", map[string]any{"cert": "c2", "key": "k2-9d04e7"})
	s.WaitLog("app", "app", "POST: c2k2-9d04e7 none.\n")
	s.Secret("tls", map[string]any{"cert": "c3-9d04e7"}) // one key is missing: neither changes
	s.Secret("maybe", map[string]any{"k": "m-9d04e7"})
	s.WaitLog("app", "app", "POST: c2k2-9d04e7 m-9d04e7m-9d04e7.\n")
	if _, err := s.Root.Logical().DeleteWithContext(t.Context(), "kv/data/"+s.Name+"/maybe"); err != nil {
		t.Fatal(err)
	}
	const all = "POST: c2k2-9d04e7 none.\nPOST: c2k2-9d04e7 m-9d04e7m-9d04e7.\nPOST: c2k2-9d04e7 none.\n"
	s.WaitLog("app", "app", all)
	if got := s.Exec("app", "app", "cat", "/tmp/log"); got != all {
		t.Errorf("the app was told of\n%swant\n%s", got, all)
	}
}

// The app can ask Vault through its agent, without a token, and a PodMonitor the
// agent for its metrics: neither shows a secret that was not asked for.
func TestProxyAndMetrics(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", script: readFirst + stay, annotations: wants(s.Name) + "latchkey.dev/proxy: \"8200\"\nlatchkey.dev/metrics-port: \"9102\"\n"}.String())
	s.WaitPod("app", "ready", harness.Ready)
	ask := func(path string) string {
		return s.Exec("app", "app", "wget", "-qO-", "--header", "X-Vault-Request: true", "http://127.0.0.1:8200/v1/"+path)
	}
	if got := ask("kv/data/" + s.Name + "/app"); !strings.Contains(got, password) {
		t.Errorf("the secret as read through the agent: %s", got)
	}
	self := ask("auth/token/lookup-self")
	if found := s.Secrets.In(self); found != nil || !strings.Contains(self, `"display_name"`) {
		t.Errorf("the agent's own token as looked up through it holds %q:\n%s", found, self)
	}

	metrics, err := s.Kube.CoreV1().Pods(s.Name).ProxyGet("http", "app", "9102", "metrics", nil).DoRaw(t.Context())
	if err != nil || !strings.Contains(string(metrics), "latchkey_agent_") {
		t.Fatalf("reading the agent's metrics: %v\n%s", err, metrics)
	}
	for _, found := range s.Secrets.In(string(metrics)) {
		t.Errorf("the agent's metrics, %s", found)
	}
}

// A process of the app's is told by a signal, across the containers of a pod
// that shares its process namespace; and the app can use the agent's token.
func TestSignalAndTokenFile(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", spec: "shareProcessNamespace: true\nsecurityContext: {runAsUser: 1000, runAsGroup: 1000}",
		annotations: filesOf(s, "- {path: app.env, secret: kv/"+s.Name+"/app, format: env}",
			"latchkey.dev/token-file: '{path: token.json, format: json}'", "latchkey.dev/notify: |\n  - signal: {process: sh, signal: SIGUSR1}"),
		script: `trap 'echo "told: $(cat /vault/secrets/app.env)"' USR1
trap 'exit 0' TERM
cat /vault/secrets/token.json
while :; do sleep 86400 & wait; done`}.String())
	s.WaitPod("app", "ready", harness.Ready)
	token := s.WaitLog("app", "app", "}\n")
	for _, part := range []string{`{"clientToken":"hvs.`, `"accessor":"`, `"leaseDuration":3600`, `"renewable":true`, `"vaultAddr":"https://`} {
		if !strings.Contains(token, part) {
			t.Errorf("the token's file lacks %s", part)
		}
	}
	s.Secret("app", map[string]any{"PASSWORD": changed})
	s.WaitLog("app", "app", "told: "+changedEnv)
	if p := s.WaitPod("app", "ready", harness.Ready); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the app was restarted")
	}
	if log := s.Logs("app", "latchkey-agent"); strings.Contains(log, "hvs.") {
		t.Errorf("the agent's log holds a token:\n%s", log)
	}
}
