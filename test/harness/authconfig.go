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
	"k8s.io/client-go/util/exec"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
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

// showLogs prints what authconfig's pods have said, and before they were restarted.
func (a *Authconfig) showLogs(ctx context.Context) {
	pods, err := a.pods(ctx)
	if err != nil {
		a.Log(err)
	}
	for _, p := range pods {
		for _, previous := range []bool{true, false} {
			log, err := a.Kube.CoreV1().Pods(a.Name).GetLogs(p.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(ctx)
			if err == nil {
				a.Logf("log of %s:\n%s", p.Name, log)
			}
		}
	}
}

// lookForSecrets returns an error that says which secrets stand in what authconfig
// counts and notes.
func (a *Authconfig) lookForSecrets(ctx context.Context) error {
	var errs []error
	look := func(what, text string) {
		for _, found := range a.Secrets.In(text) {
			errs = append(errs, fmt.Errorf("%s of authconfig in %s, %s", what, a.Name, found))
		}
	}
	maps, err := a.Kube.CoreV1().ConfigMaps(a.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing ConfigMaps: %w", err)
	}
	for _, m := range maps.Items {
		for key, text := range m.Data {
			look("ConfigMap "+m.Name+", key "+key, text)
		}
	}
	pods, err := a.pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if !Ready(&p) {
			continue
		}
		text, err := a.Kube.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, "8080", "metrics", nil).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("reading the metrics of %s: %w", p.Name, err)
		}
		look("the metrics", string(text))
	}
	return errors.Join(errs...)
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

func (a *Authconfig) pods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := a.Kube.CoreV1().Pods(a.Name).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + AuthconfigName})
	if err != nil {
		return nil, fmt.Errorf("listing authconfig's pods: %w", err)
	}
	return pods.Items, nil
}

// Pods are authconfig's.
func (a *Authconfig) Pods() []corev1.Pod {
	a.Helper()
	pods, err := a.pods(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	return pods
}

// Leader is the pod that holds the Lease.
func (a *Authconfig) Leader() *corev1.Pod {
	a.Helper()
	var leader *corev1.Pod
	a.Eventually("a leader", func() error {
		lease, err := a.Kube.CoordinationV1().Leases(a.Name).Get(a.Context(), AuthconfigName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil {
			return errors.New("the Lease has no holder")
		}
		for _, p := range a.Pods() {
			if p.DeletionTimestamp == nil && strings.HasPrefix(*lease.Spec.HolderIdentity, p.Name) {
				leader = &p
				return nil
			}
		}
		return fmt.Errorf("the Lease's holder is %q, which is no pod", *lease.Spec.HolderIdentity)
	})
	return leader
}

// Said is what authconfig's pods have said so far.
func (a *Authconfig) Said() string {
	a.Helper()
	var all strings.Builder
	for _, p := range a.Pods() {
		all.WriteString(a.Logs(p.Name, "authconfig"))
	}
	return all.String()
}

// WaitSaid waits until authconfig's log has all of parts in one line.
func (a *Authconfig) WaitSaid(parts ...string) string {
	a.Helper()
	var said string
	a.Eventually(fmt.Sprintf("a line with %q", parts), func() error {
		log := a.Said()
	lines:
		for line := range strings.Lines(log) {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			said = line
			return nil
		}
		return fmt.Errorf("the log is:\n%s", log)
	})
	return said
}

// Run runs one of authconfig's commands in its pod, with its rights, and returns
// what it printed and its exit code.
func (a *Authconfig) Run(command string, args ...string) (out string, code int) {
	a.Helper()
	out, err := a.Cluster.Exec(a.Context(), a.Name, a.Leader().Name, "authconfig",
		append([]string{"/authconfig", command, "--config=/etc/latchkey/config/config.yaml"}, args...)...)
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		return out, exit.Code
	case err != nil:
		a.Fatalf("%v\n%s", err, out)
	}
	return out, 0
}

// Record is what authconfig has noted in the cluster, empty where it has not yet.
func (a *Authconfig) Record() (r plan.Record) {
	a.Helper()
	m, err := a.Kube.CoreV1().ConfigMaps(a.Name).Get(a.Context(), AuthconfigName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return r
	}
	if err != nil {
		a.Fatalf("reading authconfig's record: %v", err)
	}
	if err := json.Unmarshal([]byte(m.Data["record.json"]), &r); err != nil {
		a.Fatalf("reading authconfig's record: %v\n%s", err, m.Data["record.json"])
	}
	return r
}

// Metrics is what the leader counts.
func (a *Authconfig) Metrics() string {
	a.Helper()
	text, err := a.Kube.CoreV1().Pods(a.Name).ProxyGet("http", a.Leader().Name, "8080", "metrics", nil).DoRaw(a.Context())
	if err != nil {
		a.Fatalf("reading authconfig's metrics: %v", err)
	}
	return string(text)
}

// WaitMetric waits until a line of the metrics is there.
func (a *Authconfig) WaitMetric(line string) {
	a.Helper()
	a.Eventually("the metric "+line, func() error {
		if text := a.Metrics(); !strings.Contains("\n"+text, "\n"+line+"\n") {
			return fmt.Errorf("the metrics are:\n%s", text)
		}
		return nil
	})
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
