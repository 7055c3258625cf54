package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey/internal/cli"
)

const pod = `apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    latchkey.dev/inject: "true"
    latchkey.dev/files: "[{path: app.env, secret: kv/app, format: env}]"
spec:
  containers:
  - name: app
    image: app:1
`

const operator = `connections:
  default: {address: "https://vault.example", auth: {role: "{{.Namespace}}_{{.ServiceAccount}}"}}
`

// folder has manifests and configurations to call the program with.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pod.yaml":           pod,
		"operator.yaml":      operator,
		"broken.yaml":        "conections: {}\ndefaults: {refresh: soon}\n",
		"wrong.yaml":         strings.Replace(pod, "files", "fils", 1),
		"notyaml.yaml":       "a: [",
		"all/1-pod.yaml":     pod,
		"all/2-conf.yml":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\n",
		"all/3-note.txt":     "no manifest",
		"all/below/pod.yaml": "a: [",
		"empty/note.txt":     "no manifest",
		"templateless.yaml":  "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func call(t *testing.T, stdin string, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, cli.Streams{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr})
	return code, stdout.String(), stderr.String()
}

func TestExitCodes(t *testing.T) {
	t.Chdir(folder(t))
	config := []string{"--config", "operator.yaml"}
	for _, c := range []struct {
		args   []string
		code   int
		stderr string // what it must hold
	}{
		{nil, 2, "Usage: injector COMMAND"},
		{[]string{"inject"}, 2, `unknown command "inject"`},
		{[]string{"help"}, 0, ""},
		{[]string{"version"}, 0, ""},
		{[]string{"render", "-h"}, 0, "Usage: injector render"},
		{[]string{"render"}, 2, "-f is missing (a file, a folder, or - for standard input)"},
		{[]string{"render", "-f", "pod.yaml", "-o", "xml"}, 2, `-o is "xml" (yaml, json, diff)`},
		{[]string{"render", "-f", "pod.yaml", "more"}, 2, `unexpected argument "more"`},
		{[]string{"render", "--nope"}, 2, "nope"},
		{append([]string{"render", "-f", "pod.yaml"}, config...), 0, ""},
		{[]string{"render", "-f", "pod.yaml"}, 1, "Pod/web: latchkey.dev/role: missing"},
		{append([]string{"render", "-f", "wrong.yaml"}, config...), 1, `Pod/web: latchkey.dev/fils: unknown annotation (did you mean "files"?)`},
		{append([]string{"render", "-f", "notyaml.yaml"}, config...), 1, "notyaml.yaml: document 1: reading YAML"},
		{append([]string{"render", "-f", "templateless.yaml"}, config...), 1, "Deployment/web: spec.template: missing (the template of its pods, with metadata and spec)"},
		{append([]string{"render", "-f", "pod.yaml", "-f", "all"}, config...), 0, "not injected: ConfigMap/conf: it is no pod"},
		{[]string{"render", "-f", "-"}, 1, "no manifests in what was read"},
		{[]string{"render", "-f", "none.yaml"}, 1, "none.yaml: no such file"},
		{[]string{"render", "-f", "empty"}, 1, "empty has no .yaml, .yml or .json file"},
		{[]string{"render", "-f", "pod.yaml", "--config", "none.yaml"}, 1, "reading operator's configuration"},
		{[]string{"render", "-f", "pod.yaml", "--config", "broken.yaml"}, 1, "3 problems:\n  conections: unknown key (did you mean \"connections\"?)\n  connections: empty"},
		{[]string{"annotations", "-o", "html"}, 2, `-o is "html" (markdown, json)`},
		{[]string{"serve"}, 2, "--cert-dir is missing"},
		{[]string{"serve", "--cert-dir", ".", "--log-level", "loud"}, 2, `--log-level is "loud" (debug, info, warn, error)`},
		{[]string{"serve", "--cert-dir", ".", "--log-format", "xml"}, 2, `--log-format is "xml" (json, text)`},
		{[]string{"serve", "--cert-dir", ".", "--config", "broken.yaml"}, 1, "conections: unknown key"},
	} {
		code, out, stderr := call(t, "", c.args...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit code %d, want %d with %q:\n%s", c.args, code, c.code, c.stderr, stderr)
		}
		if code != 0 && out != "" {
			t.Errorf("%q fails and prints:\n%s", c.args, out)
		}
	}
}

func TestRender(t *testing.T) {
	t.Chdir(folder(t))
	code, out, stderr := call(t, "", "render", "-f", "all", "--config", "operator.yaml", "--namespace", "shop")
	if code != 0 || stderr != "not injected: ConfigMap/conf: it is no pod\n" {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	for _, want := range []string{`"role": "shop_default"`, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}

	// The namespace of the flag, else the object's, else default.
	for ns, text := range map[string]string{"default": pod, "ledger": strings.Replace(pod, "  name: web", "  name: web\n  namespace: ledger", 1)} {
		_, out, _ := call(t, text, "render", "-f", "-", "--config", "operator.yaml")
		if !strings.Contains(out, `"role": "`+ns+`_default"`) {
			t.Errorf("not rendered for namespace %s:\n%s", ns, out)
		}
	}

	// What was injected needs no injection, in JSON too.
	code, out, _ = call(t, pod, "render", "-f", "-", "--config", "operator.yaml", "-o", "json")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	code, again, stderr := call(t, out, "render", "-f", "-", "--config", "operator.yaml", "-o", "json")
	if code != 0 || again != out || stderr != "not injected: Pod/web: it has its agent already\n" {
		t.Errorf("exit code %d: %s\n%s", code, stderr, again)
	}
}

func TestRenderDiff(t *testing.T) {
	long := strings.Replace(pod, "path: app.env", "path: "+strings.Repeat("long/", 40)+"app.env", 1)
	dir := folder(t)
	code, out, _ := call(t, long+"---\nkind: Service\n", "render", "-f", "-", "--config", filepath.Join(dir, "operator.yaml"), "-o", "diff")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if lines[0] != "--- Pod/web" || lines[1] != "+++ Pod/web, injected" || !strings.HasPrefix(lines[2], "@@ -") {
		t.Errorf("begins with\n%s", strings.Join(lines[:3], "\n"))
	}
	cut := false
	for _, line := range lines[2:] {
		if line[0] == '-' {
			t.Errorf("something is taken away: %s", line)
		}
		if utf8.RuneCountInString(line) > wide || strings.Contains(line, "\x1b") {
			t.Errorf("line is too long or coloured: %q", line)
		}
		cut = cut || strings.HasSuffix(line, "…")
	}
	if !cut || !strings.Contains(out, "+          - name: latchkey-secrets") && !strings.Contains(out, "+    - name: latchkey-secrets") {
		t.Errorf("the diff lacks a mount or a cut line:\n%s", out)
	}
}

func TestAnnotations(t *testing.T) {
	code, out, _ := call(t, "", "annotations", "-o", "json")
	var rows []struct{ Name, Type, Default, Description string }
	if err := json.Unmarshal([]byte(out), &rows); code != 0 || err != nil || len(rows) < 23 {
		t.Fatalf("exit code %d, %d rows: %v", code, len(rows), err)
	}
	_, page, _ := call(t, "", "annotations")
	for _, r := range rows {
		if !strings.HasPrefix(r.Name, "latchkey.dev/") || r.Description == "" || !strings.Contains(page, "| `"+r.Name+"` |") {
			t.Errorf("row %+v is not in the page", r)
		}
	}
}

// Whatever is wrong is said at once: what cannot be read does not hide what is
// wrong elsewhere.
func TestRenderReportsEveryFile(t *testing.T) {
	t.Chdir(folder(t))
	code, out, stderr := call(t, "", "render", "-f", "notyaml.yaml", "-f", "none.yaml", "-f", "empty", "-f", "wrong.yaml", "-f", "templateless.yaml", "--config", "operator.yaml")
	if code != 1 || out != "" {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	for _, want := range []string{"notyaml.yaml: document 1", "none.yaml: no such file", "empty has no .yaml", "latchkey.dev/fils", "Deployment/web: spec.template"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
}

// Who renders without the operator's file is told so, once, if it matters.
func TestRenderTellsOfBuiltInDefaults(t *testing.T) {
	t.Chdir(folder(t))
	for _, c := range []struct {
		stdin string
		args  []string
		want  int
	}{
		{pod + "---\n" + pod, nil, 1}, // no role
		{strings.Replace(pod, "annotations:", "annotations:\n    latchkey.dev/role: app", 1), nil, 1},
		{pod, []string{"--config", "operator.yaml"}, 0},
		{"kind: Service\n", nil, 0},
	} {
		_, _, stderr := call(t, c.stdin, append([]string{"render", "-f", "-"}, c.args...)...)
		if n := strings.Count(stderr, "hint: rendered with the built-in defaults"); n != c.want {
			t.Errorf("%d hints, want %d:\n%s", n, c.want, stderr)
		}
	}
}

// The whole of a usage text fits on a screen.
func TestUsageIsShort(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"serve", "-h"}, {"render", "-h"}, {"annotations", "-h"}} {
		_, out, stderr := call(t, "", args...)
		if n := strings.Count(out+stderr, "\n"); n == 0 || n > 24 {
			t.Errorf("%q prints %d lines", args, n)
		}
	}
}
