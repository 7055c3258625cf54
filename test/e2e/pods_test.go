package e2e

import (
	"fmt"
	"strings"
)

// A pod is the manifest of a test's pod, assembled from what tests vary.
type pod struct {
	name        string
	annotations string // YAML lines below metadata.annotations
	spec        string // YAML lines below spec
	script      string // what the app's shell runs
	app         string // YAML lines of the app's container
	more        string // YAML list of further containers
	// program is an image that is run, with args, in place of the shell and the script.
	program string
	args    []string
}

// The fixtures are like nothing else that could stand in a log.
const (
	password   = "it's $5-5f0c2a"
	changed    = "changed-5f0c2a"
	appEnv     = "PASSWORD='it'\\''s $5-5f0c2a'\nUSER='app'\n"
	changedEnv = "PASSWORD='" + changed + "'\n"
)

// stay ends an app's script: it waits until it is told to go, and goes at once.
const stay = "\ntrap 'exit 0' TERM; sleep 86400 & wait"

// wants are the annotations of a pod that wants one file, app.env, from
// kv/<space>/app. All that its agent has to say is heard.
func wants(space string) string {
	return fmt.Sprintf(`latchkey.dev/inject: "true"
latchkey.dev/role: %[1]s
latchkey.dev/log-level: debug
latchkey.dev/files: |
  - {path: app.env, secret: kv/%[1]s/app, format: env}
`, space)
}

// template is the pod's metadata and spec, as a controller's template or a pod has it.
func (p pod) template() string {
	var b strings.Builder
	b.WriteString("metadata:\n  labels: {app: test}\n")
	if p.name != "" {
		b.WriteString("  name: " + p.name + "\n")
	}
	if p.annotations != "" {
		b.WriteString("  annotations:\n" + indent(4, p.annotations))
	}
	b.WriteString("spec:\n  serviceAccountName: app\n  terminationGracePeriodSeconds: 5\n")
	b.WriteString(indent(2, p.spec))
	if p.program == "" {
		b.WriteString("  containers:\n  - name: app\n    image: busybox:box\n    imagePullPolicy: Never\n")
		b.WriteString("    command:\n    - sh\n    - -c\n    - |\n" + indent(6, p.script))
	} else {
		fmt.Fprintf(&b, "  containers:\n  - name: app\n    image: %s\n    imagePullPolicy: Never\n    args: [%s]\n", p.program, strings.Join(p.args, ", "))
	}
	b.WriteString(indent(4, p.app))
	b.WriteString(indent(2, p.more))
	return b.String()
}

func (p pod) String() string { return "apiVersion: v1\nkind: Pod\n" + p.template() }

// indent puts n spaces before each line, and a final newline after the last.
func indent(n int, text string) string {
	if text == "" {
		return ""
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.Trim(text, "\n"), "\n", "\n"+pad) + "\n"
}
