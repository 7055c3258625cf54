package authconfig

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// loaded reads a configuration from a file's text, an environment and flags.
func loaded(t *testing.T, file string, env map[string]string, args ...string) (*Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(append([]string{"--config", name}, args...), func(name string) string { return env[name] },
		func(c *Config) (*flag.FlagSet, *string) {
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			fs.SetOutput(io.Discard)
			file := fs.String("config", "", "")
			c.Bind(fs)
			return fs, file
		})
	return c, err
}

func TestPrecedence(t *testing.T) {
	const file = `
vault: {address: "https://file.test"}
mount: {path: file, description: file, maxLeaseTTL: 8760h}
resync: 1h
`
	env := map[string]string{"VAULT_ADDR": "https://env.test", "AUTHCONFIG_MOUNT": "env", "AUTHCONFIG_ADOPT": "true", "AUTHCONFIG_AUDIENCE": ""}
	c, err := loaded(t, file, env, "--mount", "auth/flag", "--adopt=false")
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"flag over environment":             {c.Mount.Path, "auth/flag"},
		"flag over environment, a bool":     {c.Mount.Adopt, false},
		"environment over file":             {c.Vault.Address, "https://env.test"},
		"file over default":                 {c.Mount.Description, "file"},
		"file over default, a duration":     {time.Duration(c.Resync), time.Hour},
		"file":                              {time.Duration(c.Mount.MaxLeaseTTL), 8760 * time.Hour},
		"default":                           {c.Reviewer.Mode, "short-lived"},
		"default that depends":              {c.Vault.Auth.Role, "latchkey-authconfig"},
		"default, the variable being empty": {c.Audience, "vault"},
		"default source":                    {c.Sources[0].String(), "vault-auth/vault-auth-roles"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
}

// Every value of the configuration is a flag and a variable, each once.
// Vault's CA can be said in two ways, and a laptop has one of them in its
// environment.
func TestPrecedenceOfCAs(t *testing.T) {
	const inFile, inEnv = "vault: {ca: bundle}", "/env/ca.crt"
	for _, c := range []struct {
		what, file, env string
		args            []string
		ca, caFile      string
	}{
		{"file", inFile, "", nil, "bundle", ""},
		{"environment over file", inFile, inEnv, nil, "", inEnv},
		{"flag over environment", "", inEnv, []string{"--vault-ca", "flag"}, "flag", ""},
		{"flag over both", inFile, inEnv, []string{"--vault-ca-file", "/flag/ca.crt"}, "", "/flag/ca.crt"},
	} {
		got, err := loaded(t, c.file, map[string]string{"VAULT_ADDR": "https://vault.test", "VAULT_CACERT": c.env}, c.args...)
		if got == nil || got.Vault.CA != c.ca || got.Vault.CAFile != c.caFile {
			t.Errorf("%s: %+v, %v, want ca %q and caFile %q", c.what, got, err, c.ca, c.caFile)
		}
	}
}

// A person's token beside the chart's file.
func TestPrecedenceOfLogins(t *testing.T) {
	const file = `vault: {auth: {method: approle, mount: approle, roleIDPath: /pod/role-id, secretIDPath: /pod/secret-id, namespace: team}}`
	c, err := loaded(t, file, map[string]string{"VAULT_ADDR": "https://vault.test"}, "--auth-method", "token", "--auth-token-path", "/home/me/.vault-token")
	if want := (config.Auth{Method: "token", TokenPath: "/home/me/.vault-token", Namespace: "team"}); err != nil || c.Vault.Auth != want {
		t.Errorf("%+v, %v, want %+v", c.Vault.Auth, err, want)
	}
	c, err = loaded(t, file, map[string]string{"VAULT_ADDR": "https://vault.test"}, "--auth-role-id-path", "/home/me/role-id")
	if want := (config.Auth{Method: "approle", Mount: "approle", RoleIDPath: "/home/me/role-id", SecretIDPath: "/pod/secret-id", Namespace: "team"}); err != nil || c.Vault.Auth != want {
		t.Errorf("the file's method: %+v, %v, want %+v", c.Vault.Auth, err, want)
	}
}

func TestEveryValueIsAFlag(t *testing.T) {
	var c Config
	places := map[string]bool{"vault.headers": true, "serviceAccounts": true} // lists and maps that are no flags
	envs := map[string]bool{}
	for _, s := range c.settings() {
		if places[s.at] || envs[EnvName(s.flag)] || s.doc == "" {
			t.Errorf("%s stands twice, or has no doc", s.at)
		}
		places[s.at], envs[EnvName(s.flag)] = true, true
	}
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.Bind(fs)
	n := 0
	fs.VisitAll(func(*flag.Flag) { n++ })
	if n != len(c.settings()) {
		t.Errorf("%d flags for %d settings", n, len(c.settings()))
	}
	var walk func(reflect.Type, string)
	walk = func(v reflect.Type, at string) {
		if v.Kind() != reflect.Struct {
			if !places[at] {
				t.Errorf("%s is no flag", at)
			}
			delete(places, at)
			return
		}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Field(i).Tag.Get("json"), ",")
			walk(v.Field(i).Type, strings.TrimPrefix(at+"."+name, "."))
		}
	}
	walk(reflect.TypeFor[Config](), "")
	for at := range places {
		t.Errorf("%s is no value of the configuration", at)
	}
}

func TestProblemsOfConfiguration(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		want []string
	}{
		{"mount: {path: [a]}\nkubernetes: {host: [b]}\nresync: 1s", nil, []string{"kubernetes.host: ", "mount.path: "}},
		{"mount: {path: a//b}", nil, []string{`mount.path: mount "a//b" is not a path`}},
		{"mount: {defaultLeaseTTL: 2h, maxLeaseTTL: 1h}", nil, []string{"mount.defaultLeaseTTL: 2h0m0s is longer than mount.maxLeaseTTL, 1h0m0s"}},
		{"mount: {maxLeaseTTL: 1500ms}", nil, []string{"mount.maxLeaseTTL: 1.5s (whole seconds"}},
		{"kubernetes: {host: api.test, ca: none}", nil, []string{`kubernetes.host: "api.test" is no URL`, "kubernetes.ca: holds no certificate"}},
		{"kubernetes: {host: \"https://me:pass@api.test\"}", nil, []string{"kubernetes.host: holds credentials"}},
		{"reviewer: {life: 5m, serviceAccount: \"*\"}", nil, []string{"reviewer.life: 5m0s (10m0s to ", `reviewer.serviceAccount: "*" is no name`}},
		{"reviewer: {mode: jwt, discovery: true, aliasMetadata: true}", nil, []string{"reviewer.aliasMetadata: true has no effect with reviewer.mode jwt"}},
		{"reviewer: {discovery: true, secret: x}", nil, []string{"reviewer.discovery: true has no effect with reviewer.mode short-lived", `reviewer.secret: "x" has no effect`}},
		{"reviewer: {rotateAfter: 59m}", nil, []string{"reviewer.rotateAfter: 59m0s (less than nine tenths of reviewer.life, 1h0m0s"}},
		{"vault: {auth: {method: cert}}", nil, []string{`vault.auth.method: "cert" is a method for agents alone (jwt, approle, token, kubernetes)`}},
		{"vault: {auth: {method: token}}", nil, []string{"vault.auth.tokenPath: missing (an absolute path)"}},
		{"vault: {auth: {method: kubernetes}}", nil, []string{"vault.auth.mount: missing (the path of the auth method"}},
		{"vault: {ca: x, caFile: /y}", nil, []string{"vault.ca: caFile is set too", "vault.ca: holds no certificate"}},
		{"sources: [{namespace: a, name: b}, {namespace: a, name: b, allowedPolicies: [\"\"]}, {namespace: A, name: \"\"}]", nil,
			[]string{"sources[1]: a/b stands more than once", "sources[1].allowedPolicies: has an empty pattern", `sources[2].namespace: "A" is no name`, `sources[2].name: "" is no name`}},
		{"sources: [{namespace: a, name: b, allowedNamespaces: }]", nil, []string{"sources[0].allowedNamespaces: has no value"}},
		{"sources: [{namespace: a, name: b, allowedNamespaces: [], allowedPolicies: []}]", nil,
			[]string{"sources[0].allowedNamespaces: is empty (a list of patterns", "sources[0].allowedPolicies: is empty (a list of patterns"}},
		{"sources: [{namespace: a, name: b}]", []string{"--source", "c/d"}, []string{"sources: stand in the file and in --source"}},
		{"serviceAccounts: [{namespace: shop, name: \"*\"}, {namespace: shop, name: a, delegator: true}, {namespace: shop, name: a}]", nil,
			[]string{`serviceAccounts[0].name: "*" is no name of a ServiceAccount`, "serviceAccounts[1].delegator: true has no use", "serviceAccounts[2]: shop/a stands more than once"}},
	} {
		_, err := loaded(t, c.file, map[string]string{"VAULT_ADDR": "https://vault.test"}, c.args...)
		if err == nil {
			t.Errorf("%s: accepted", c.file)
			continue
		}
		lines := strings.Split(strings.TrimPrefix(err.Error(), "configuration: "), "\n  ")
		if len(lines) > 1 {
			lines = lines[1:]
		}
		for _, want := range c.want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
				t.Errorf("%s: no %q in\n%s", c.file, want, err)
			}
		}
		if len(lines) != len(c.want) {
			t.Errorf("%s: %d problems, want %d:\n%s", c.file, len(lines), len(c.want), err)
		}
	}
}

// Where a value is of the wrong type nothing of the file is taken: that what it
// has were missing would be untrue.
func TestWrongTypesAreToldAlone(t *testing.T) {
	_, err := loaded(t, `vault: {address: "https://vault.test", timeout: 5}`, nil)
	if err == nil || !strings.Contains(err.Error(), "vault.timeout: ") || strings.Contains(err.Error(), "vault.address") {
		t.Errorf("the error is %v", err)
	}
}

// What depends on the mode or the method.
func TestDefaultsThatDepend(t *testing.T) {
	for file, want := range map[string]func(*Config) bool{
		"":                             func(c *Config) bool { return c.Vault.Auth.Mount == "jwt" && c.Vault.Auth.TokenPath == LoginTokenPath },
		"reviewer: {mode: client}":     func(c *Config) bool { return c.Audience == "" },
		"reviewer: {mode: long-lived}": func(c *Config) bool { return c.Reviewer.Secret == "latchkey-reviewer-token" },
		"audience: mine":               func(c *Config) bool { return c.Audience == "mine" },
		"vault: {auth: {method: approle, roleIDPath: /id}}": func(c *Config) bool {
			return c.Vault.Auth.Mount == "approle" && c.Vault.Auth.Role == "" && c.Vault.Auth.Method == config.MethodAppRole
		},
	} {
		c, err := loaded(t, file, map[string]string{"VAULT_ADDR": "https://vault.test"})
		if err != nil || !want(c) {
			t.Errorf("%q: %+v, %v", file, c, err)
		}
	}
	c, err := loaded(t, "", map[string]string{"VAULT_ADDR": "https://vault.test", "AUTHCONFIG_SOURCE": "a/b, c/d"})
	if err != nil || len(c.Sources) != 2 || c.Sources[1].String() != "c/d" {
		t.Errorf("%v, %v", c, err)
	}
}
