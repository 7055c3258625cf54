package mutate

import (
	"os"
	"strings"
	"testing"
)

func TestDefaultConfig(t *testing.T) {
	cfg := DefaultConfig()
	conn := cfg.Connections["default"]
	if conn == nil || conn.Vault.Address != "https://vault.vault.svc:8200" || conn.Vault.Auth.Mount != "kubernetes" ||
		conn.Vault.Auth.Audience != "vault" || conn.Vault.CA != "" || conn.RoleTemplate != "" {
		t.Errorf("connection default: %+v", conn)
	}
	if cfg.AgentImage != "latchkey-agent:dev" || cfg.Defaults.MountPath != "/vault/secrets" ||
		cfg.Defaults.Refresh.String() != "5m0s" || cfg.Defaults.StartTimeout.String() != "2m0s" {
		t.Errorf("defaults: %+v", cfg)
	}
	if cpu, memory := cfg.Defaults.Resources.Requests.Cpu().String(), cfg.Defaults.Resources.Requests.Memory().String(); cpu != "5m" || memory != "16Mi" || cfg.Defaults.Resources.Limits != nil {
		t.Errorf("resources: %+v", cfg.Defaults.Resources)
	}
}

// Everything that is wrong is said at once, each with its place.
func TestParseConfigReportsEveryProblem(t *testing.T) {
	_, err := ParseConfig([]byte(`
agentImage: "an image"
agentimage: other
imagePullPolicy: Sometimes
connections:
  a: {adress: "https://vault", ca: nonsense, auth: {method: jwt, mount: auth/, role: "{{.Pod}}"}, allowedNamespaces: ["[", ""]}
  b: {address: "https://me:secret@vault"}
  c: {address: "vault:8200", auth: {mount: ../sys}}
defaults:
  lifecycle: init
  gate: hook+probe
  mountPath: relative
  refresh: soon
  startTimeout: 1ms
  resources: {requests: {cpu: lots, gpu: 1}, limits: {cpu: 1m, memory: 20Mi}}
  more: true
runtimeClassesWithoutSubPath: ["kata-[",]
`))
	const want = `
  agentImage: "an image" holds a blank (an image reference)
  agentimage: unknown key (did you mean "agentImage"?)
  connections.a.address: missing (such as "https://vault.vault.svc:8200")
  connections.a.adress: unknown key (did you mean "address"?)
  connections.a.allowedNamespaces: "[" is no pattern (a name, or one with * and ?)
  connections.a.allowedNamespaces: "" is no pattern (a name, or one with * and ?)
  connections.a.auth.method: "jwt" (kubernetes)
  connections.a.auth.mount: "auth/" (the path of the auth method, such as "kubernetes")
  connections.a.auth.role: "{{.Pod}}" holds an unknown action ({{.Namespace}} and {{.ServiceAccount}})
  connections.a.ca: holds no certificate (a PEM bundle)
  connections.b.address: holds credentials (a URL without user and password)
  connections.c.address: "vault:8200" has no scheme and host (such as "https://vault.vault.svc:8200")
  connections.c.auth.mount: "../sys" (the path of the auth method, such as "kubernetes")
  defaults.gate: "hook+probe" (hook)
  defaults.lifecycle: "init" (native)
  defaults.more: unknown key (lifecycle, gate, mountPath, refresh, startTimeout, resources)
  defaults.mountPath: "relative" (an absolute path such as "/vault/secrets", not below /proc, /sys, /dev or the ServiceAccount's token)
  defaults.refresh: "soon" (a number with a unit, such as "90s" or "5m", at least 5s)
  defaults.resources.limits.cpu: 1m is below the request (at least 5m)
  defaults.resources.limits.memory: 20Mi does not cover the volume of 16Mi that is charged to the agent (at least 32Mi)
  defaults.resources.requests.cpu: "lots" (a quantity such as "5m" or "16Mi")
  defaults.resources.requests.gpu: unknown resource (cpu, memory, ephemeral-storage)
  defaults.startTimeout: 1ms is too short (at least 1s)
  imagePullPolicy: "Sometimes" (Always, IfNotPresent, Never)
  runtimeClassesWithoutSubPath: "kata-[" is no pattern (a name, or one with * and ?)`
	if err == nil {
		t.Fatal("no error")
	}
	if got := err.Error(); got != "25 problems:"+want {
		t.Errorf("differs:\n%s", firstDifference("25 problems:"+want, got))
	}
	if strings.Contains(err.Error(), "secret@") {
		t.Error("the credentials of an address are repeated")
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestParseConfigRefusesWhatIsNoConfig(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "connections: empty"},
		"no YAML":       {"a: [", "reading YAML"},
		"a list":        {"- a", "reading YAML"},
		"repeated key":  {"agentImage: a\nagentImage: b\n", `key "agentImage" already set`},
		"a wrong type":  {"connections: []", "reading YAML"},
		"no connection": {"connections: {}", "connections: empty"},
	} {
		if _, err := ParseConfig([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// An empty audience is the API server's own, and not the default.
func TestEmptyAudienceIsKept(t *testing.T) {
	cfg, err := ParseConfig([]byte(`connections: {default: {address: "https://vault", auth: {audience: ""}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if a := cfg.Connections["default"].Vault.Auth.Audience; a != "" {
		t.Errorf("audience %q", a)
	}
}

func TestExpandRole(t *testing.T) {
	id := Identity{Namespace: "team-a", ServiceAccount: "web.front"}
	for template, want := range map[string]string{
		"{{.Namespace}}_{{.ServiceAccount}}": "team-a_web.front",
		"{{ .ServiceAccount }}":              "web.front",
		"fixed":                              "fixed",
	} {
		if got, err := expandRole(template, id); err != nil || got != want {
			t.Errorf("%s: %q, %v", template, got, err)
		}
	}
	for _, template := range []string{"{{.Name}}", "{{printf .Namespace}}", "{{.Namespace", "a/{{.Namespace}}", "../sys", "{{.Namespace}}-"} {
		if got, err := expandRole(template, id); err == nil {
			t.Errorf("%s is accepted: %q", template, got)
		}
	}
}

// The documentation is what the table says.
func TestDocumentationIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../../docs/annotations.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != AnnotationsMarkdown() {
		t.Errorf("docs/annotations.md is stale: `make generate` writes it:\n%s", firstDifference(string(page), AnnotationsMarkdown()))
	}
	for _, r := range table {
		if r.doc == "" || r.typ == "" || r.def == "" || !strings.HasSuffix(r.doc, ".") {
			t.Errorf("row %q lacks its documentation", r.name)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"files", "refresh", "role", "inject"}
	for name, want := range map[string]string{
		"file": "files", "refesh": "refresh", "Inject": "inject", "rloe": "role",
		"something-else": "",
	} {
		got := didYouMean(name, known)
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A value of a wrong type is told by its field, without words of Go's.
func TestOperatorFileWithWrongTypes(t *testing.T) {
	for text, want := range map[string]string{
		"connections: []":            "connections: is a list (a map)",
		"connections: {a: x}":        "connections: is a string (a map)",
		"agentImage: 3":              "agentImage: is a number (a string: quote it)",
		"meshProxies: {}":            "meshProxies: is a map (a list)",
		"defaults: {refresh: [1]}":   "defaults.refresh: is a list (a string)",
		"connections: {a: {ca: on}}": "connections.ca: is a bool (a string: quote it)",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || err.Error() != "reading YAML: "+want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
