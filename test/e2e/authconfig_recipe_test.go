package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// recipeRoles are the roles of the recipe as values of the chart: the one for the
// pod, by an old name and with the old names of its fields.
const recipeRoles = `
authconfig:
  enabled: true
  roles:
    DefaultPolicyForPod: {bound_service_account_names: auth-demo, bound_service_account_namespaces: %s, policies: 'default,app', ttl: 1h}
`

// TestFromNothing is all that somebody does who has an empty Vault and a cluster
// without Latchkey: what Vault's operator runs once, one installation, one
// annotated pod. It runs alone, since it is about the one installation.
func TestFromNothing(t *testing.T) {
	s := suite.Space(t)
	v := s.OwnVault(false)
	secretOf(s, v)
	s.ServiceAccount("auth-demo")
	s.ServiceAccount("other")
	if err := suite.Helm(t.Context(), "uninstall", "latchkey", "--namespace", harness.InstallNamespace, "--wait"); err != nil {
		t.Fatal(err)
	}
	// What authconfig itself made outlasts an installation. A Lease that nobody gave
	// back is waited for.
	if err := suite.Kubectl(t.Context(), harness.InstallNamespace, "delete", "--ignore-not-found",
		"lease/"+harness.AuthconfigName, "configmap/"+harness.AuthconfigName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*harness.Patience)
		defer cancel()
		if err := suite.Install(ctx); err != nil {
			t.Errorf("installing the chart as before: %v", err)
		}
	})
	dir := t.TempDir()
	ca, keys, values := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "keys.pem"), filepath.Join(dir, "values.yaml")
	pem, code := authconfig(t, []string{"KUBECONFIG=" + suite.Kubeconfig}, "keys")
	if code != 0 {
		t.Fatalf("authconfig keys ended with %d:\n%s", code, pem)
	}
	for file, content := range map[string]string{ca: string(suite.CA()), keys: pem, values: fmt.Sprintf(recipeRoles, s.Name)} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	began := time.Now()
	setup := exec.CommandContext(t.Context(), filepath.Join(harness.Checkout(), "deploy", "authconfig", "setup.sh"), keys)
	setup.Env = append(os.Environ(), "PATH="+vaultOnPath(t)+":"+os.Getenv("PATH"),
		"VAULT_ADDR="+v.Root.Address(), "VAULT_TOKEN="+v.Root.Token(), "VAULT_CACERT="+ca)
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("setup.sh: %v\n%s", err, out)
	}
	ready := time.Now()
	// The annotation has the injectors replaced when the suite's installation is
	// back: they would send pods to this Vault until they read their file again.
	if err := suite.Install(t.Context(), "--values", values, "--set-string", "config.connections.default.address="+v.Address,
		"--set-file", "config.connections.default.ca="+ca, "--set-string", "podAnnotations.vault=own"); err != nil {
		t.Fatal(err)
	}
	installed := time.Now()
	manifest := pod{name: "try", annotations: `latchkey.dev/inject: "true"
latchkey.dev/role: DefaultPolicyForPod
latchkey.dev/files: "[{path: app.env, secret: kv/app, format: env}]"
`, script: readFirst + stay}.String()
	s.Create(strings.Replace(manifest, "serviceAccountName: app", "serviceAccountName: auth-demo", 1))
	s.WaitPod("try", "ready", harness.Ready)
	wantLog(s, "try")
	done := time.Now()
	if log := s.Logs("try", "latchkey-agent"); strings.Count(log, "\n") > 2 {
		t.Logf("the agent said:\n%s", log)
	}
	t.Logf("Vault's set-up took %.1f s, helm install --wait %.1f s, the pod with its file %.1f s: %.1f s from the start of the installation",
		ready.Sub(began).Seconds(), installed.Sub(ready).Seconds(), done.Sub(installed).Seconds(), done.Sub(ready).Seconds())
	// It takes one or two seconds, and nothing else runs meanwhile.
	if took := done.Sub(installed); took > 30*time.Second {
		t.Errorf("the file was there after %s, want 30s", took)
	}

	if role := v.Read("auth/kubernetes/role/defaultpolicyforpod"); fmt.Sprint(role["token_ttl"]) != "3600" {
		t.Errorf("the role is %v", role)
	}
	if _, err := v.Login(t.Context(), "kubernetes", "DefaultPolicyForPod", s.Token("other", harness.Audience)); err == nil {
		t.Error("another ServiceAccount can log in with the role")
	}
}
