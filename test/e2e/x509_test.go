package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// Whoever keeps the certificate, it and its CA change without costing a pod. Most
// of the time is the minute for which a new CA rests before it is used; but beside
// tests that start many pods, a machine of two cores cannot answer every call of
// the webhook within its 5 s.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	suite.CertManager(t)
	// One of an earlier run would be served until the new one is there. Later
	// means after the suite's install: until then somebody makes them anew.
	clear := func() {
		kubectlLater(t, "delete", "--ignore-not-found", "secret", "latchkey-injector-ca", "latchkey-root", "from-cert-manager", "from-vault", "my-own", "vault-ca")
	}
	clear()
	t.Cleanup(clear)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		suite.Switch(func() {
			if err := suite.Install(ctx); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("self-signed", selfSigned)
	t.Run("vault", vaultIssuer)
	t.Run("bring-your-own", bringYourOwn)
	t.Run("self-managed", selfManaged)
}

// With cert-manager and deploy/certs/self-signed.
func selfSigned(t *testing.T) {
	apply(t, "self-signed", nil)
	switchTo(t, "--values", certsFile("self-signed", "values.yaml"), "--set", "certs.secretName=from-cert-manager")

	lossless(t, *rotationRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		leaf := watch.waitRotated(before, false)

		// A new root signs the leaf's next one: its old one stays trusted.
		suite.Renew(t, harness.InstallNamespace, "latchkey-root")
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		watch.waitRotated(leaf, true)
		watch.end()
	})
}

// With cert-manager, Vault as the CA and deploy/certs/vault, and a new root in Vault.
func vaultIssuer(t *testing.T) {
	setUpPKI(t)
	kubectl(t, "create", "secret", "generic", "vault-ca", "--from-literal=ca.crt="+string(suite.VaultCA))
	// The box's cert-manager has no search list of DNS, as a pod has.
	apply(t, "vault", strings.NewReplacer("vault.vault.svc:", "vault.vault.svc."+cluster.Domain+":"))
	// Nor is it a pod with a ServiceAccount, so its right to the token is asked for.
	mayLogIn := []string{"auth", "can-i", "create", "--subresource=token", "--as=system:serviceaccount:cert-manager:cert-manager"}
	kubectl(t, append(mayLogIn, "serviceaccounts/latchkey-injector-issuer")...)
	if suite.Kubectl(t.Context(), harness.InstallNamespace, append(mayLogIn, "serviceaccounts/latchkey-injector")...) == nil {
		t.Error("cert-manager may have tokens of the injector's ServiceAccount, want those of its own alone")
	}
	switchTo(t, "--values", certsFile("vault", "values.yaml"), "--set", "certs.secretName=from-vault")

	lossless(t, *rotationRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		s.VaultWrite("pki-latchkey/root/rotate/internal", map[string]any{"common_name": "latchkey-root-2", "key_type": "ec", "ttl": "26280h"})
		s.VaultWrite("pki-latchkey/root/replace", map[string]any{"default": "next"})
		suite.Renew(t, harness.InstallNamespace, harness.InjectorName)
		for _, leaf := range watch.waitRotated(before, true) {
			if leaf.Issuer.CommonName != "latchkey-root-2" {
				t.Errorf("a replica serves a certificate of %q, want Vault's new root", leaf.Issuer)
			}
		}
		watch.end()
	})
}

// Without help: deploy/certs/bring-your-own, step by step.
func bringYourOwn(t *testing.T) {
	oldCA, newCA := makeCA(t, "old"), makeCA(t, "new")
	storeServing(t, oldCA)
	values := func(bundle ...string) []string {
		file := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(file, []byte(strings.Join(bundle, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"--values", certsFile("bring-your-own", "values.yaml"), "--set-file", "certs.caBundle=" + file, "--set", "certs.secretName=my-own"}
	}
	switchTo(t, values(oldCA.pem)...)

	lossless(t, *rotationRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		install(t, values(oldCA.pem, newCA.pem)...)
		storeServing(t, newCA)
		watch.waitRotated(before, true)
		install(t, values(newCA.pem)...)
		watch.end()
	})
}

// Without cert-manager: the injector keeps its CA, with any number of replicas.
func selfManaged(t *testing.T) {
	const leafDuration = time.Minute // the least that there is
	switchTo(t, "--set", "certs.mode=self-managed", "--set", "certs.leafDuration="+leafDuration.String())

	lossless(t, *rotationRate, func(s *harness.Space) {
		watch := watchTrust(t)
		before := watch.waitReplicas(2)
		// Each replica has a leaf of its own, and takes the next before its end.
		leaf := watch.waitRotated(before, false)
		kubectl(t, "delete", "secret", "latchkey-injector-ca")
		watch.waitRotated(leaf, true)
		watch.end()
	})
}

// switchTo installs the injector with another keeper of its certificate. That
// its CA is another at once is not what is to cost no pod.
func switchTo(t *testing.T, args ...string) {
	t.Helper()
	suite.Switch(func() { install(t, args...) })
}
