package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// Whatever users a pod states, the agent starts, and each container that is
// given the files can read them, with no more rights on them than that takes.
func TestFilesAreReadableByTheirUsers(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	const second = "- name: other\n  image: busybox:box\n  imagePullPolicy: Never\n  command: [sh, -c, %q]\n  securityContext: {runAsUser: %d}\n"
	look := "set -e; id -u; stat -L -c '%a %u:%g' /vault/secrets/app.env; cat /vault/secrets/app.env" + stay
	var checks []func() // for when all pods are made
	for _, c := range []struct {
		name       string
		spec, app  string
		row        string // a further annotation
		other      int    // user of a second container, if any
		file       string // as the app sees it: mode, owner, group
		user       string // of the app
		lifecycles []string
	}{
		{name: "unstated", file: "444 65532:65532", user: "0", lifecycles: []string{"native", "init", "sidecar"}},
		{name: "pod-root", spec: "securityContext: {runAsUser: 0}", file: "444 65532:65532", user: "0", lifecycles: []string{"native", "init", "sidecar"}},
		{name: "pod-root-group", spec: "securityContext: {runAsUser: 0, fsGroup: 3000}", app: "securityContext: {capabilities: {drop: [ALL]}}", file: "440 65532:3000", user: "0"},
		{name: "pod-fixed", spec: "securityContext: {runAsUser: 1000, fsGroup: 2000}", file: "400 1000:2000", user: "1000", lifecycles: []string{"native", "init", "sidecar"}},
		{name: "pod-fixed-app-other", spec: "securityContext: {runAsUser: 1000}", app: "securityContext: {runAsUser: 1001}", file: "444 1000:0", user: "1001"},
		{name: "apps-agree", app: "securityContext: {runAsUser: 1001}", other: 1001, file: "400 1001:65532", user: "1001"},
		{name: "apps-differ", app: "securityContext: {runAsUser: 1001}", other: 1002, file: "444 65532:65532", user: "1001"},
		{name: "asked-for", row: `latchkey.dev/run-as-user: "4000"`, file: "444 4000:65532", user: "0"},
		{name: "asked-for-the-apps", row: "latchkey.dev/run-as-user: \"4000\"\nlatchkey.dev/run-as-group: \"5000\"", app: "securityContext: {runAsUser: 4000}", file: "400 4000:5000", user: "4000"},
		{name: "apps-differ-group", spec: "securityContext: {fsGroup: 3000}", app: "securityContext: {runAsUser: 1001}", other: 1002, file: "440 65532:3000", user: "1001"},
	} {
		if c.lifecycles == nil {
			c.lifecycles = []string{"native"}
		}
		for _, lifecycle := range c.lifecycles {
			name := c.name + "-" + lifecycle
			script := look
			if lifecycle == "sidecar" {
				script = untilThere + look
			}
			p := pod{name: name, annotations: wants(s.Name) + "latchkey.dev/lifecycle: " + lifecycle + "\n" + c.row + "\n", spec: c.spec, app: c.app, script: script}
			if c.other != 0 {
				p.more = fmt.Sprintf(second, script, c.other)
			}
			s.Create(p.String())
			checks = append(checks, func() {
				s.WaitPod(name, "ready", harness.Ready)
				want := c.user + "\n" + c.file + "\n" + appEnv
				if got := s.WaitLog(name, "app", "USER="); got != want {
					t.Errorf("the app of %s found\n%s\nwant\n%s", name, got, want)
				}
				if c.other != 0 {
					want = strings.Replace(want, c.user, fmt.Sprint(c.other), 1)
					if got := s.WaitLog(name, "other", "USER="); got != want {
						t.Errorf("the other container of %s found\n%s\nwant\n%s", name, got, want)
					}
				}
			})
		}
	}
	for _, check := range checks {
		check()
	}
}
