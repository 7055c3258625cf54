package mutate

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Every key of the operator's file has its row in the documentation, and none
// is documented that there is not.
func TestConfigurationPageHasEveryKey(t *testing.T) {
	page := configurationPage(t)
	documented := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(page, -1) {
		documented[m[1]] = true
	}
	known := make(map[string]bool)
	leaves(reflect.TypeFor[operatorFile](), "", known)
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if !documented[key] {
			t.Errorf("docs/configuration.md has no row for %s", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(documented)) {
		if !known[key] {
			t.Errorf("docs/configuration.md has a row for %s, which is no key", key)
		}
	}
}

// leaves collects the keys below a type of this package that hold values.
func leaves(t reflect.Type, at string, into map[string]bool) {
	switch {
	case t.Kind() == reflect.Pointer:
		leaves(t.Elem(), at, into)
	case t.Kind() == reflect.Map && ofThisPackage(t.Elem()):
		leaves(t.Elem(), at+".NAME", into)
	case t.Kind() == reflect.Slice && ofThisPackage(t.Elem()):
		leaves(t.Elem(), at+"[]", into)
	case t.Kind() == reflect.Struct && ofThisPackage(t):
		for i := range t.NumField() {
			leaves(t.Field(i).Type, strings.TrimPrefix(at+"."+t.Field(i).Tag.Get("json"), "."), into)
		}
	default:
		into[at] = true
	}
}

func ofThisPackage(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && path.Base(t.PkgPath()) == "mutate"
}

// What the documentation shows can be used as it stands.
func TestConfigurationPageShowsGoodFiles(t *testing.T) {
	files := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(configurationPage(t), -1)
	if len(files) < 3 {
		t.Fatalf("%d files are shown, there were 3", len(files))
	}
	for _, m := range files {
		if _, err := ParseConfig([]byte(m[1])); err != nil {
			t.Errorf("%v\n%s", err, m[1])
		}
	}
}

func configurationPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// Whatever a file holds, it is read or refused, and agents can use what it says
// once it is read: nothing of it is left for the pods to find.
func FuzzParseConfig(f *testing.F) {
	for _, text := range []string{builtIn, "a: b", "connections: {a: null}", "imagePullSecrets: [{name: a, b: c}]", "connections: {a: {auth: {x: 1}, headers: {a.b: c}}}"} {
		f.Add(text)
	}
	for _, c := range goldens(f) {
		if text, err := os.ReadFile(filepath.Join(c.dir, "config.yaml")); err == nil {
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ParseConfig([]byte(text))
		if err != nil {
			if !utf8.ValidString(err.Error()) || err.Error() == "" {
				t.Errorf("unreadable error %q", err)
			}
			return
		}
		for name, conn := range cfg.Connections {
			agent := config.Agent{
				Version:      config.Version,
				Vault:        conn.Vault,
				Files:        []config.File{{Path: "a", Template: "b", Mode: 0o444}},
				Refresh:      config.Duration(cfg.Defaults.Refresh),
				StartTimeout: config.Duration(cfg.Defaults.StartTimeout),
			}
			if agent.Vault.Auth.UsesServiceAccount() {
				agent.Vault.Auth.Role = "role"
			}
			if err := agent.Validate(); err != nil {
				t.Errorf("connection %q: %v", name, err)
			}
			volume := identityVolume(conn, conn.Vault.Auth, tokenSeconds)
			for _, file := range []string{conn.Vault.CAFile, conn.Vault.ClientCert, conn.Vault.ClientKey, conn.Vault.Auth.TokenPath, conn.Vault.Auth.RoleIDPath, conn.Vault.Auth.SecretIDPath} {
				if file != "" && !projects(&volume, file) {
					t.Errorf("connection %q: nothing in the volume becomes %s", name, file)
				}
			}
		}
	})
}

// projects tells whether the volume holds a file of the agent's.
func projects(v *corev1.Volume, file string) bool {
	var paths []string
	for _, s := range v.Projected.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			paths = append(paths, s.ServiceAccountToken.Path)
		case s.ConfigMap != nil:
			for _, item := range s.ConfigMap.Items {
				paths = append(paths, item.Path)
			}
		case s.Secret != nil:
			for _, item := range s.Secret.Items {
				paths = append(paths, item.Path)
			}
		case s.ClusterTrustBundle != nil:
			paths = append(paths, s.ClusterTrustBundle.Path)
		}
	}
	relative, ok := strings.CutPrefix(file, path.Dir(config.TokenPath)+"/")
	return ok && slices.Contains(paths, relative)
}
