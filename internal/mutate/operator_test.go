package mutate

import (
	"errors"
	"fmt"
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
imagePullSecrets: [{name: registry}, {name: "a registry"}, {nane: registry}]
connections:
  a: {adress: "https://vault", ca: nonsense, auth: {method: jwt, mount: auth/, role: "{{.Pod}}"}, allowedNamespaces: ["[", ""]}
  b: {address: "https://me:secret@vault", proxy: "http://me:secret@proxy", headers: {Authorization: secret, X-Team: shop}}
  c: {address: "vault:8200", auth: {mount: ../sys}}
  d:
    address: https://vault
    ca: "-----BEGIN PRIVATE KEY-----"
    caConfigMap: {key: a/b}
    caSecret: {name: Vault_CA, kye: ca.crt}
    clientCertSecret: {}
    proxy: proxy:3128
    timeout: 1ms
    tlsServerName: https://vault
    headers: {Host: vault, "X Team": shop}
    namespace: "a\nb"
    auth: {namespace: "a b"}
  e: {address: "https://vault", clusterTrustBundle: {name: a, signerName: example.com/b}}
  f: {address: "https://vault", clusterTrustBundle: {labelSelector: {matchLabel: {}}}}
  g: {address: "https://vault", clusterTrustBundle: {name: "A B", labelSelector: {}}, timeout: "30"}
  h: {address: "https://vault", clusterTrustBundle: {signerName: vault, labelSelector: {matchExpressions: [{key: a, operator: Is}]}}}
  "the last": {address: "https://vault"}
defaults:
  lifecycle: job
  gate: probe
  mountPath: relative
  refresh: soon
  startTimeout: 1ms
  retireGrace: 25h
  resources: {requests: {cpu: lots, gpu: 1}, limits: {cpu: 1m, memory: 20Mi}}
  more: true
policy: {mayOverride: [service], mayoverride: []}
runtimeClassesWithoutSubPath: ["kata-[",]
`))
	const want = `
  agentImage: "an image" is no image reference (such as "registry.example/latchkey-agent:1.0.0")
  agentimage: unknown key (did you mean "agentImage"?)
  connections: "the last" is no name (one that pods can ask for, without blanks)
  connections.a.address: missing (such as "https://vault.vault.svc:8200")
  connections.a.adress: unknown key (did you mean "address"?)
  connections.a.allowedNamespaces: "[" is no pattern (a name, or one with * and ?)
  connections.a.allowedNamespaces: "" is no pattern (a name, or one with * and ?)
  connections.a.auth.mount: "auth/" (the path of the auth method, such as "jwt")
  connections.a.auth.role: "{{.Pod}}" holds an unknown action ({{.Namespace}} and {{.ServiceAccount}})
  connections.a.ca: holds no certificate (a PEM bundle)
  connections.b.address: holds credentials (a URL without user and password)
  connections.b.headers: "Authorization" would hold credentials, which anybody who may read pods could read (another header)
  connections.b.proxy: holds credentials (a URL without user and password)
  connections.c.address: "vault:8200" has no scheme and host (such as "https://vault.vault.svc:8200")
  connections.c.auth.mount: "../sys" (the path of the auth method, such as "kubernetes")
  connections.d.auth.namespace: "a b" (the path of a Vault namespace, such as "team/shop")
  connections.d.ca: stands beside caConfigMap and caSecret (one of ca, caConfigMap, caSecret, clusterTrustBundle)
  connections.d.ca: holds a private key, which everybody who may read pods could read (certificates alone)
  connections.d.caConfigMap.key: "a/b" (a key of it, such as "ca.crt")
  connections.d.caConfigMap.name: missing (the name of a ConfigMap in each workload's namespace)
  connections.d.caSecret.kye: unknown key (did you mean "key"?)
  connections.d.caSecret.name: "Vault_CA" (the name of a Secret: lower-case letters, digits, "-" and ".")
  connections.d.clientCertSecret.name: missing (the name of a Secret of type kubernetes.io/tls in each workload's namespace)
  connections.d.headers: "Host" is set by the agent itself (another header)
  connections.d.headers: "X Team" is no name of a header (letters, digits and "-")
  connections.d.namespace: "a\nb" (the path of a Vault namespace, such as "team/shop")
  connections.d.proxy: "proxy:3128" has no scheme and host (such as "http://proxy.example:3128")
  connections.d.timeout: 1ms is too short (at least 1s)
  connections.d.tlsServerName: "https://vault" (a host name of Vault's certificate, such as "vault.example")
  connections.e.clusterTrustBundle: has both name and signerName (one of them)
  connections.f.clusterTrustBundle: has neither name nor signerName (one of them)
  connections.f.clusterTrustBundle.labelSelector: stands without signerName (only beside it)
  connections.f.clusterTrustBundle.labelSelector.matchLabel: unknown key (did you mean "matchLabels"?)
  connections.g.clusterTrustBundle.labelSelector: stands without signerName (only beside it)
  connections.g.clusterTrustBundle.name: "A B" (the name of a ClusterTrustBundle)
  connections.g.timeout: "30" (a number with a unit, such as "90s" or "5m", at least 1s)
  connections.h.clusterTrustBundle.labelSelector: "Is" is not a valid label selector operator (matchLabels and matchExpressions as elsewhere in Kubernetes)
  connections.h.clusterTrustBundle.signerName: "vault" (a signer, such as "example.com/vault")
  defaults.gate: "probe" (hook, hook+probe)
  defaults.lifecycle: "job" (native, init, sidecar)
  defaults.more: unknown key (lifecycle, gate, mountPath, refresh, startTimeout, retireGrace, resources)
  defaults.mountPath: "relative" (an absolute path such as "/vault/secrets"; not /etc itself, and nothing below /proc, /sys, /dev, the ServiceAccount's token or /run/latchkey/volume)
  defaults.refresh: "soon" (a number with a unit, such as "90s" or "5m", at least 5s)
  defaults.resources.limits.cpu: 1m is below the request (at least 5m)
  defaults.resources.limits.memory: 20Mi does not cover the volume of 16Mi that is charged to the agent (at least 32Mi)
  defaults.resources.requests.cpu: "lots" (a quantity such as "5m" or "16Mi")
  defaults.resources.requests.gpu: unknown resource (cpu, memory, ephemeral-storage)
  defaults.retireGrace: 25h0m0s is too long (at most 24h0m0s)
  defaults.startTimeout: 1ms is too short (at least 1s)
  imagePullPolicy: "Sometimes" (Always, IfNotPresent, Never)
  imagePullSecrets[1].name: "a registry" (the name of a Secret: lower-case letters, digits, "-" and ".")
  imagePullSecrets[2].name: missing (the name of a Secret in each workload's namespace)
  imagePullSecrets[2].nane: unknown key (did you mean "name"?)
  policy.mayOverride: "service" is unknown (there is nothing to override yet)
  policy.mayoverride: unknown key (did you mean "mayOverride"?)
  runtimeClassesWithoutSubPath: "kata-[" is no pattern (a name, or one with * and ?)`
	if err == nil {
		t.Fatal("no error")
	}
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("%T", err)
	}
	if got := "\n  " + strings.Join(problems, "\n  "); got != want {
		t.Errorf("differs:\n%s", firstDifference(want, got))
	}
	if strings.Contains(err.Error(), "secret@") {
		t.Error("the credentials of a URL are repeated")
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestParseConfigRefusesWhatIsNoConfig(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "connections: empty"},
		"no YAML":       {"a: [", "reading YAML"},
		"a list":        {"- a", "is a list"},
		"repeated key":  {"agentImage: a\nagentImage: b\n", `key "agentImage" already set`},
		"a wrong type":  {"connections: []", "connections: is a list"},
		"no connection": {"connections: {}", "connections: empty"},
		"two documents": {builtIn + "---\npolicy: {}\n", "there is a second document"},
		"an end":        {builtIn + "...\nmore", "there is a second document"},
		"a bad second":  {builtIn + "---\n[", "there is a second document"},
	} {
		if _, err := ParseConfig([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A first line of --- and comments around it are no document of their own.
func TestParseConfigTakesOneDocument(t *testing.T) {
	for _, text := range []string{"---" + builtIn, "# ours\n---" + builtIn + "# the end\n", builtIn + "...\n"} {
		if _, err := ParseConfig([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A key without a value, such as a list whose items are all commented out,
// lifts no restriction. An empty list of namespaces is nobody.
func TestKeysWithoutValue(t *testing.T) {
	_, err := ParseConfig([]byte(`
connections:
  a:
    address: https://vault
    allowedNamespaces:
    # - payments
    ca:
    clientCertSecret:
  b: {address: "https://vault", caConfigMap: null, caSecret: null, clusterTrustBundle: null}
  c: {address: "https://vault", clusterTrustBundle: {signerName: example.com/vault, labelSelector: null}}
  d: {address: "https://vault", clusterTrustBundle: {signerName: example.com/vault, labelSelector: {matchLabels: null, matchExpressions: null}}}
defaults:
policy:
imagePullSecrets:
`))
	const want = `9 problems:
  connections.a.allowedNamespaces: has no value (a list of namespaces, [] for none; without the key all of them)
  connections.a.ca: has no value (a PEM bundle; without the key another source, or the system's roots)
  connections.a.clientCertSecret: has no value (the name of a Secret; without it the agent shows no certificate)
  connections.b.caConfigMap: has no value (name and key; without it another source, or the system's roots)
  connections.b.caSecret: has no value (name and key; without it another source, or the system's roots)
  connections.b.clusterTrustBundle: has no value (name or signerName; without it another source, or the system's roots)
  connections.c.clusterTrustBundle.labelSelector: has no value (matchLabels and matchExpressions; without it all bundles of the signer)
  connections.d.clusterTrustBundle.labelSelector.matchExpressions: has no value (a list; without it nothing is asked for)
  connections.d.clusterTrustBundle.labelSelector.matchLabels: has no value (a map of labels; without it no label is asked for)`
	if err == nil || err.Error() != want {
		t.Errorf("differs:\n%s\n%v", firstDifference(want, fmt.Sprint(err)), err)
	}
	cfg, err := ParseConfig([]byte(`connections: {a: {address: "https://vault", allowedNamespaces: []}}`))
	if err != nil || matches(cfg.Connections["a"].AllowedNamespaces, "shop") {
		t.Errorf("an empty list allows a namespace: %v", err)
	}
}

// Values that are of the right type, and would break each pod that gets them,
// are refused.
func TestValuesThatBreakEveryPod(t *testing.T) {
	for text, good := range map[string]bool{
		"connections: {a: {address: 'https://vault'}}":                                                   true,
		"connections: {a: {address: 'https://vault:65535/'}}":                                            true,
		"connections: {a: {address: 'https://[2001:db8::1]:8200'}}":                                      true,
		"connections: {a: {address: 'https://:8200'}}":                                                   false,
		"connections: {a: {address: 'https://vault:'}}":                                                  false,
		"connections: {a: {address: 'https://vault:/'}}":                                                 false,
		"connections: {a: {address: 'https://vault:0'}}":                                                 false,
		"connections: {a: {address: 'https://vault:65536'}}":                                             false,
		"connections: {a: {address: 'https://vault?'}}":                                                  false,
		"connections: {a: {address: 'https://vault#'}}":                                                  false,
		"connections: {a: {address: 'https://va ult'}}":                                                  false,
		"connections: {a: {address: 'https://v', auth: {mount: auth/k8s/eu}}}":                           true,
		"connections: {a: {address: 'https://v', auth: {mount: 'k8s?x'}}}":                               false,
		"connections: {a: {address: 'https://v', auth: {mount: 'k8s#x'}}}":                               false,
		`connections: {a: {address: "https://v", auth: {mount: "k8s\n"}}}`:                               false,
		`connections: {a: {address: "https://v", auth: {audience: "https://vault.example/"}}}`:           true,
		`connections: {a: {address: "https://v", auth: {audience: "a\tb"}}}`:                             false,
		`connections: {a: {address: "https://v", auth: {audience: "` + strings.Repeat("a", 513) + `"}}}`: false,
		"connections: {a: {address: 'https://v', tlsServerName: vault_1.example}}":                       true,
		"connections: {a: {address: 'https://v', tlsServerName: 192.0.2.1}}":                             true,
		"connections: {a: {address: 'https://v', tlsServerName: vault..example}}":                        false,
		"connections: {a: {address: 'https://v', tlsServerName: vault.-example}}":                        false,
		"connections: {a: {address: 'https://v', tlsServerName: vault.example.}}":                        false,
		"connections: {a: {address: 'https://v', tlsServerName: '*.example'}}":                           false,
		"connections: {a: {address: 'https://v'}}\nmeshProxies: [istio-proxy]":                           true,
		"connections: {a: {address: 'https://v'}}\nmeshProxies: ['istio-*']":                             false,
		"connections: {a: {address: 'https://v'}}\nmeshProxies: ['']":                                    false,
	} {
		if _, err := ParseConfig([]byte(text)); (err == nil) != good {
			t.Errorf("%s: %v, want it good: %t", text, err, good)
		}
	}
	digest := "@sha256:" + strings.Repeat("0a", 32)
	for image, good := range map[string]bool{
		"latchkey-agent": true, "latchkey-agent:dev": true, "registry.example:5000/a/b_c/d--e.f:V1.0_x": true,
		"localhost/agent" + digest: true, "[2001:db8::1]:5000/agent:1" + digest: true, "10.0.0.1:5000/agent": true,
		"Agent": false, "agent:": false, "agent:a b": false, "agent@sha256:0a": false, "/agent": false, "a//b": false,
		"https://registry.example/agent": false, "agent:1:2": false, "agent-": false, "registry.example/Agent": false, "agent:-1": false,
	} {
		_, err := ParseConfig([]byte(builtIn + "agentImage: '" + image + "'\n"))
		if (err == nil) != good {
			t.Errorf("%s: %v, want it good: %t", image, err, good)
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

// Values of a wrong type are told by their places, all at once and beside
// unknown keys, without words of Go's.
func TestOperatorFileWithWrongTypes(t *testing.T) {
	_, err := ParseConfig([]byte(`
agentImage: 3
imagePullSecrets: [registry]
connections:
  a.b: {ca: on, caConfigMap: vault-ca, timeout: 30, headers: {X-Team: 1}, auth: []}
  b: {auth: {bindSecretID: "no"}}
  c: x
  d: {clusterTrustBundle: {labelSelector: {matchExpressions: {}}}, adress: 1}
defaults: {refresh: [1], resources: {requests: {cpu: 1, memory: {}}}}
meshProxies: {}
`))
	const want = `14 problems:
  agentImage: is a number (a string: quote it)
  connections.a.b.auth: is a list (a map: method, mount, namespace, role, audience, appRoleSecret, bindSecretID, secretIDWrappingPath, tokenSecret)
  connections.a.b.ca: is a bool (a string: quote it)
  connections.a.b.caConfigMap: is a string (a map: name, key)
  connections.a.b.headers.X-Team: is a number (a string: quote it)
  connections.a.b.timeout: is a number (a string: quote it)
  connections.b.auth.bindSecretID: is a string (true or false)
  connections.c: is a string (a map: address, ca, caConfigMap, caSecret, clusterTrustBundle, tlsServerName, clientCertSecret, proxy, timeout, headers, namespace, auth, allowedNamespaces)
  connections.d.adress: unknown key (did you mean "address"?)
  connections.d.clusterTrustBundle.labelSelector.matchExpressions: is a map (a list)
  defaults.refresh: is a list (a string)
  defaults.resources.requests.memory: is a map (a string or a number)
  imagePullSecrets[0]: is a string (a map: name)
  meshProxies: is a map (a list)`
	if err == nil || err.Error() != want {
		t.Errorf("differs:\n%s\n%v", firstDifference(want, fmt.Sprint(err)), err)
	}
	for text, want := range map[string]string{
		"connections: []": "connections: is a list (a map)",
		"- a":             "the file: is a list (a map)",
		"a":               "the file: is a string (a map)",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// The API server takes a signer without a selector for one that selects nothing.
func TestSignerWithoutSelectorMeansAllItsBundles(t *testing.T) {
	for text, want := range map[string]int{
		"{signerName: example.com/vault}":                                            0,
		"{signerName: example.com/vault, labelSelector: {matchLabels: {env: prod}}}": 1,
	} {
		cfg, err := ParseConfig([]byte("connections: {default: {address: 'https://vault', clusterTrustBundle: " + text + "}}"))
		if err != nil {
			t.Fatal(err)
		}
		bundle := cfg.Connections["default"].CASource.ClusterTrustBundle
		if bundle.LabelSelector == nil || len(bundle.LabelSelector.MatchLabels) != want {
			t.Errorf("%s: selector %v", text, bundle.LabelSelector)
		}
	}
	cfg, err := ParseConfig([]byte("connections: {default: {address: 'https://vault', clusterTrustBundle: {name: vault}}}"))
	if err != nil || cfg.Connections["default"].CASource.ClusterTrustBundle.LabelSelector != nil {
		t.Errorf("a bundle's name has a selector beside it: %v", err)
	}
}

// Trust bundles and signers are named as the API server wants it, which would
// refuse every pod otherwise.
func TestTrustBundleNames(t *testing.T) {
	for name, want := range map[string]bool{
		"vault": true, "vault.example": true, "example.com:vault:2026": true,
		"Vault": false, "example.com/vault": false, "example.com:vault": false, "com:vault:a": false,
		"example.com:vault:": false, ":": false, "a:b:c:d": false, "../a": false,
	} {
		if got := isTrustBundleName(name); got != want {
			t.Errorf("bundle %q: %t, want %t", name, got, want)
		}
	}
	for name, want := range map[string]bool{
		"example.com/vault": true, "kubernetes.io/kube-apiserver-serving": true,
		"vault": false, "com/vault": false, "example.com/": false, "/vault": false, "example.com/a/b": false, "example.com/..": false,
	} {
		if got := isSignerName(name); got != want {
			t.Errorf("signer %q: %t, want %t", name, got, want)
		}
	}
}
