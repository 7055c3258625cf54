package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/cli"
)

func call(t *testing.T, env map[string]string, stdin string, args ...string) (code int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := program(func(name string) string { return env[name] })
	code = p.Run(t.Context(), args, cli.Streams{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr})
	return code, stdout.String(), stderr.String()
}

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestExitCodes(t *testing.T) {
	t.Chdir(folder(t, map[string]string{
		"good.yaml":   "vault: {address: \"https://vault.test:8200\"}\n",
		"broken.yaml": "vault: {adress: x, timeout: 5}\nresync: 1s\nreviewer: {mode: none}\n",
		"wrong.yaml":  "vault: {adress: x}\nresync: 1s\nreviewer: {mode: none}\n",
		"kubeconfig":  "{}",
		"cluster":     "{clusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}",
	}))
	for _, c := range []struct {
		args   []string
		env    map[string]string
		code   int
		stderr string // what it must hold
	}{
		{nil, nil, 1, "Usage: authconfig COMMAND"},
		{[]string{"reconcile"}, nil, 1, `unknown command "reconcile"`},
		{[]string{"help"}, nil, 0, ""},
		{[]string{"version"}, nil, 0, ""},
		{[]string{"serve", "-h"}, nil, 0, "$AUTHCONFIG_REVIEWER_MODE"},
		{[]string{"serve", "--nope"}, nil, 1, "nope"},
		{[]string{"serve", "more", "--vault-addr", "https://vault.test"}, nil, 1, `unexpected argument "more"`},
		{[]string{"plan", "--config", "none.yaml"}, nil, 1, "reading configuration: open none.yaml"},
		{[]string{"plan"}, map[string]string{"AUTHCONFIG_CONFIG": "none.yaml"}, 1, "open none.yaml"},
		{[]string{"plan", "--config", "broken.yaml"}, nil, 1, `vault.adress: unknown key (did you mean "address"?)`},
		{[]string{"plan", "--config", "broken.yaml"}, nil, 1, `vault.timeout: duration 5 is not a string`},
		{[]string{"plan", "--config", "wrong.yaml"}, nil, 1, `resync: 1s (at least 5s) [--resync, $AUTHCONFIG_RESYNC]`},
		{[]string{"plan", "--config", "wrong.yaml"}, nil, 1, `reviewer.mode: "none" (local, client, long-lived, short-lived, jwt)`},
		{[]string{"plan", "--config", "good.yaml"}, nil, 1, "--kubeconfig or $KUBECONFIG"},
		{[]string{"plan", "--config", "good.yaml", "--kubeconfig", "kubeconfig"}, nil, 1, "reading kubeconfig kubeconfig"},
		// Which namespace is meant nobody has said: kubectl's would be default.
		{[]string{"plan", "--config", "good.yaml", "--kubeconfig", "cluster"}, nil, 1, "say it with --namespace or $AUTHCONFIG_NAMESPACE"},
		{[]string{"plan", "--config", "good.yaml", "--log-level", "loud"}, nil, 1, `--log-level is "loud" (debug, info, warn, error)`},
		{[]string{"policy", "--mount", "a b"}, nil, 1, `mount "a b" is not a path`},
		{[]string{"keys"}, nil, 1, "--kubeconfig or $KUBECONFIG"},
		{[]string{"claims", "none"}, nil, 1, "reading the token: open none"},
		{[]string{"claims", "a", "b"}, nil, 1, `unexpected argument "b"`},
		{[]string{"claims", "good.yaml"}, nil, 1, "no JWT"},
	} {
		code, out, stderr := call(t, c.env, "", c.args...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit code %d, want %d with %q:\n%s", c.args, code, c.code, c.stderr, stderr)
		}
		if code != 0 && len(c.args) > 0 && strings.Count(stderr, "\n") > 20 {
			t.Errorf("%q: what is wrong stands before a screen full of text:\n%s", c.args, stderr)
		}
		if code != 0 && out != "" {
			t.Errorf("%q fails and prints:\n%s", c.args, out)
		}
	}
}

// Whoever sets nothing, or all of it wrongly, is told of everything at once, with
// the flag and the variable of each.
func TestEverythingMissingIsTold(t *testing.T) {
	code, _, stderr := call(t, map[string]string{"AUTHCONFIG_AUTH_METHOD": "approle", "AUTHCONFIG_RESYNC": "often", "AUTHCONFIG_ADOPT": "perhaps"}, "",
		"serve", "--mount", "/")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"vault.address: missing (the URL of Vault, such as \"https://vault.example:8200\") [--vault-addr, $VAULT_ADDR]",
		"vault.auth.roleIDPath:", "[--auth-role-id-path, $AUTHCONFIG_AUTH_ROLE_ID_PATH]",
		"mount.path:", "[--mount, $AUTHCONFIG_MOUNT]",
		`$AUTHCONFIG_RESYNC: "often"`, `$AUTHCONFIG_ADOPT: "perhaps"`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in\n%s", want, stderr)
		}
	}
}

func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, nil, `path "auth/kubernetes/config"`},
		{nil, []string{"--mount", "auth/kubernetes/staging/"}, `path "auth/kubernetes/staging/config"`},
		{map[string]string{"AUTHCONFIG_MOUNT": "other"}, nil, `path "auth/other/config"`},
	} {
		code, out, stderr := call(t, c.env, "", append([]string{"policy"}, c.args...)...)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%v: exit code %d, no %s in\n%s%s", c.args, code, c.want, out, stderr)
		}
	}
}

// What a token says is told without what makes it good for a login.
func TestClaimsArePrinted(t *testing.T) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	const signature = "c2lnbmF0dXJl"
	jwt := part(`{"alg":"RS256"}`) + "." + part(`{"aud":["vault"],"iss":"https://issuer.test","sub":"system:serviceaccount:shop:web","exp":1800000000,
		"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"web","uid":"1"}}}`) + "." + signature
	file := filepath.Join(folder(t, map[string]string{"token": jwt + "\n"}), "token")
	for _, c := range []struct{ stdin, file string }{{"", file}, {jwt, "-"}} {
		code, out, stderr := call(t, nil, c.stdin, "claims", c.file)
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil {
			t.Fatalf("exit code %d, %v:\n%s%s", code, err, out, stderr)
		}
		for name, want := range map[string]any{"iss": "https://issuer.test", "sub": "system:serviceaccount:shop:web", "namespace": "shop",
			"serviceAccount": "web", "exp": "2027-01-15T08:00:00Z"} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		if strings.Contains(out, signature) || strings.Contains(out, strings.Split(jwt, ".")[1]) {
			t.Errorf("the token itself is printed:\n%s", out)
		}
	}
}

// The log says what authconfig runs with, and nothing that is secret.
func TestStartIsTold(t *testing.T) {
	dir := folder(t, map[string]string{
		"role-id": "fixture-role-id", "secret-id": "fixture-secret-id",
		"kubeconfig": `{"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
			"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "users": [{"name": "u", "user": {"token": "fixture-token"}}]}`,
	})
	server := httptest.NewTLSServer(nil)
	server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for _, level := range []string{"debug", "info"} {
		code, _, stderr := call(t, map[string]string{"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_TOKEN": "fixture-vault-token"}, "", "plan", "--log-level", level,
			"--kubeconfig", filepath.Join(dir, "kubeconfig"), "--auth-method", "approle",
			"--auth-role-id-path", filepath.Join(dir, "role-id"), "--auth-secret-id-path", filepath.Join(dir, "secret-id"), "--source", "shop/roles",
			"--vault-ca", ca)
		if code != 1 {
			t.Errorf("exit code %d", code)
		}
		for _, want := range []string{"settings.vault-addr=https://127.0.0.1:1", "settings.auth-method=approle", "settings.auth-secret-id-path=", "sources=[shop/roles]"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("no %s in\n%s", want, stderr)
			}
		}
		if strings.Contains(stderr, "BEGIN CERTIFICATE") || !strings.Contains(stderr, "SHA-256") {
			t.Errorf("a CA is told in full, and not by its fingerprint:\n%s", stderr)
		}
		if strings.Contains(stderr, "fixture-") {
			t.Errorf("a secret is told:\n%s", stderr)
		}
	}
}
