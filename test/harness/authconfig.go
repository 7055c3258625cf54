package harness

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuthconfigName is the name of authconfig's Deployment, ServiceAccount, record
// and Lease.
const AuthconfigName = "latchkey-authconfig"

// ReviewerName is the name of the ServiceAccount whose token Vault shows to the
// API server.
const ReviewerName = "latchkey-reviewer"

// RolesName is the ConfigMap with a test's roles.
const RolesName = "vault-auth-roles"

// LoginMount is the mount that authconfig itself logs in at, below auth/.
const LoginMount = "authconfig-login"

// An Authconfig is one of a test's own, installed with the chart in the test's
// namespace, for a mount of the test's own Vault.
type Authconfig struct {
	*Space
	Vault *Vault
	Mount string // below auth/
}

// Authconfig installs one for `kubernetes` of a Vault, which has been told of it,
// and waits for its pods. values are YAML below `authconfig:` of the chart. Its
// source is the ConfigMap that SetRoles writes.
func (s *Space) Authconfig(v *Vault, values string) *Authconfig {
	s.Helper()
	return s.AuthconfigFor(v, "kubernetes", values)
}

// AuthconfigFor is Authconfig for another mount, below auth/.
func (s *Space) AuthconfigFor(v *Vault, mount, values string) *Authconfig {
	s.Helper()
	a := &Authconfig{Space: s, Vault: v, Mount: mount}
	a.setUpVault()
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if s.Failed() {
			a.showLogs(ctx)
		}
		if err := errors.Join(a.lookForSecrets(ctx),
			s.Helm(ctx, "uninstall", "authconfig", "--namespace", s.Name, "--ignore-not-found"),
			s.deleteBindings(ctx)); err != nil {
			s.Error(err)
		}
	})
	a.Install(values)
	return a
}

// setUpVault is what Vault's operator does once.
func (a *Authconfig) setUpVault() {
	a.Helper()
	published, err := os.ReadFile(filepath.Join(Checkout(), "deploy", "authconfig", "policy.hcl"))
	if err != nil {
		a.Fatal(err)
	}
	a.Vault.Policy(AuthconfigName, strings.ReplaceAll(string(published), "auth/kubernetes", "auth/"+a.Mount))
	a.Vault.Write("sys/auth/"+LoginMount, map[string]any{"type": "jwt"})
	a.Vault.Write("auth/"+LoginMount+"/config", map[string]any{"jwt_validation_pubkeys": a.ClusterKeys()})
	a.Vault.Write("auth/"+LoginMount+"/role/"+AuthconfigName, map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{Audience},
		"bound_subject":  "system:serviceaccount:" + a.Name + ":" + AuthconfigName,
		"token_policies": []string{AuthconfigName}, "token_ttl": "30m",
	})
}

// deleteBindings deletes what is bound to ServiceAccounts of the test's namespace
// outside of it, which authconfig leaves when it is uninstalled.
func (s *Space) deleteBindings(ctx context.Context) error {
	bindings := s.Kube.RbacV1().ClusterRoleBindings()
	list, err := bindings.List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=" + AuthconfigName})
	if err != nil {
		return fmt.Errorf("listing ClusterRoleBindings: %w", err)
	}
	for _, b := range list.Items {
		for _, subject := range b.Subjects {
			if subject.Namespace != s.Name {
				continue
			}
			if err := bindings.Delete(ctx, b.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("deleting ClusterRoleBinding %s: %w", b.Name, err)
			}
		}
	}
	return nil
}

// authconfigValues are what all tests' installations share. %s are the namespace,
// Vault's address, its CA as JSON, and the paths of the mounts for the login and
// of the one that is kept.
const authconfigValues = `
injector: {enabled: false}
log: {level: debug}
authconfig:
  enabled: true
  replicas: 1
  vault: {address: %[2]q, ca: %[3]s}
  auth: {method: jwt, mount: %[4]q, role: latchkey-authconfig, audience: vault}
  mount: {path: %[5]q}
  sources: [{namespace: %[1]q, name: vault-auth-roles}]
`

// Install installs, or changes to other values, and waits for the pods.
func (a *Authconfig) Install(values string) {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), Patience)
	defer cancel()
	if err := a.install(ctx, values, "--wait", "--timeout", "2m"); err != nil {
		a.Fatal(err)
	}
}

func (a *Authconfig) install(ctx context.Context, values string, more ...string) error {
	ca, err := json.Marshal(string(a.CA()))
	if err != nil {
		return err
	}
	common, remove, err := temporary("common.yaml", fmt.Appendf(nil, authconfigValues, a.Name, a.Vault.Address, ca, LoginMount, a.Mount))
	if err != nil {
		return err
	}
	defer remove()
	args := []string{"upgrade", "--install", "authconfig", filepath.Join(Checkout(), "deploy", "webhook"), "--namespace", a.Name, "--values", common}
	if values != "" {
		own, remove, err := temporary("values.yaml", []byte("authconfig:\n  "+strings.ReplaceAll(strings.TrimSpace(values), "\n", "\n  ")))
		if err != nil {
			return err
		}
		defer remove()
		args = append(args, "--values", own)
	}
	return a.Helm(ctx, append(args, more...)...)
}

// SetRoles makes the source ConfigMap hold these roles and no others. A value is
// JSON or YAML.
func (s *Space) SetRoles(roles map[string]string) {
	s.Helper()
	maps := s.Kube.CoreV1().ConfigMaps(s.Name)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RolesName}, Data: roles}
	_, err := maps.Update(s.Context(), m, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(s.Context(), m, metav1.CreateOptions{})
	}
	if err != nil {
		s.Fatalf("writing ConfigMap %s: %v", RolesName, err)
	}
}

// RoleFor is a role for a ServiceAccount of the test's namespace, as JSON.
func (s *Space) RoleFor(serviceAccount string, more map[string]any) string {
	s.Helper()
	role := map[string]any{
		"bound_service_account_names": []string{serviceAccount}, "bound_service_account_namespaces": []string{s.Name},
		"token_policies": []string{"default"}, "token_ttl": 600,
	}
	maps.Copy(role, more)
	text, err := json.Marshal(role)
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

// Login logs in at the mount with a new token of a ServiceAccount of the test's
// namespace.
func (a *Authconfig) Login(role, serviceAccount, audience string) error {
	a.Helper()
	_, err := a.Vault.Login(a.Context(), a.Mount, role, a.Token(serviceAccount, audience))
	return err
}

// WaitLogin waits until Login succeeds.
func (a *Authconfig) WaitLogin(role, serviceAccount, audience string) {
	a.Helper()
	a.Eventually("a login with role "+role, func() error { return a.Login(role, serviceAccount, audience) })
}

// WaitRoles waits until the mount has exactly these roles, in the order of their
// names, beside the one of the probe.
func (a *Authconfig) WaitRoles(want ...string) {
	a.Helper()
	a.Eventually(fmt.Sprintf("the roles %q", want), func() error {
		if got := a.OwnRoles(); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
}

// OwnRoles are the mount's roles but for the one of the probe.
func (a *Authconfig) OwnRoles() []string {
	a.Helper()
	var names []string
	for _, name := range a.Vault.Roles(a.Mount) {
		if name != "latchkey-probe" {
			names = append(names, name)
		}
	}
	return names
}

// ClusterKeys are the public keys of the cluster's ServiceAccount tokens, as PEM.
func (s *Space) ClusterKeys() []string {
	s.Helper()
	data, err := s.Kube.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(s.Context())
	if err != nil {
		s.Fatalf("reading the cluster's keys: %v", err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil {
		s.Fatalf("reading the cluster's keys: %v", err)
	}
	var keys []string
	for _, k := range set.Keys {
		der, err := x509.MarshalPKIXPublicKey(k.Key)
		if err != nil {
			s.Fatalf("reading key %s: %v", k.KeyID, err)
		}
		keys = append(keys, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	return keys
}
