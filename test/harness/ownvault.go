package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	vault "github.com/hashicorp/vault/api"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Vault is a test's own, in a pod of the test's namespace. It begins empty: no
// mount but Vault's own ones. Only the box has its image.
type Vault struct {
	Address string        // as pods reach it
	Root    *vault.Client // with its root token

	space *Space
}

// vaultPod is the pod of a Vault. %s are its namespace, and whether it has a token
// of its ServiceAccount.
const vaultPod = `
apiVersion: v1
kind: Pod
metadata:
  name: vault
  labels: {app: vault}
spec:
  serviceAccountName: vault
  automountServiceAccountToken: %[2]t
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532}
  containers:
  - name: vault
    image: vault:box
    imagePullPolicy: Never
    args: ["-listen=:8200", "-api-addr=https://vault.%[1]s.svc:8200", -tls-cert=/vault/tls/tls.crt, -tls-key=/vault/tls/tls.key, -data=/vault/data]
    volumeMounts:
    - {name: data, mountPath: /vault/data}
    - {name: tls, mountPath: /vault/tls, readOnly: true}
  volumes:
  - {name: data, emptyDir: {}}
  - name: tls
    secret: {secretName: vault-tls, defaultMode: 0440}
`

// OwnVault starts a Vault for this test. Its pod has a token of its ServiceAccount,
// `vault`, if inCluster says so; else it is as much a stranger to the cluster as a
// Vault outside.
func (s *Space) OwnVault(inCluster bool) *Vault {
	s.Helper()
	s.ServiceAccount("vault")
	service, err := s.Kube.CoreV1().Services(s.Name).Create(s.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "vault"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "vault"}, Ports: []corev1.ServicePort{{Port: 8200}},
			PublishNotReadyAddresses: true,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatalf("making Vault's Service: %v", err)
	}
	host := "vault." + s.Name + ".svc"
	cert, key, err := s.IssueServing(host, service.Spec.ClusterIP)
	if err != nil {
		s.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "vault-tls"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key}}
	if _, err := s.Kube.CoreV1().Secrets(s.Name).Create(s.Context(), secret, metav1.CreateOptions{}); err != nil {
		s.Fatalf("storing Vault's certificate: %v", err)
	}
	s.Create(fmt.Sprintf(vaultPod, s.Name, inCluster))

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA())
	// The tests are outside the cluster's DNS.
	client, err := vault.NewClient(&vault.Config{
		Address:    "https://" + net.JoinHostPort(service.Spec.ClusterIP, "8200"),
		HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
		Timeout:    30 * time.Second,
	})
	if err != nil {
		s.Fatalf("making a Vault client: %v", err)
	}
	v := &Vault{Address: "https://" + host + ":8200", Root: client, space: s}
	if err := v.begin(s.Context()); err != nil {
		s.Fatal(err)
	}
	return v
}

// begin makes the root token, and lets Vault write its audit log to its standard output.
func (v *Vault) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	v.Root.SetMaxRetries(0)
	if err := poll(ctx, func() error {
		_, err := v.Root.Sys().InitStatusWithContext(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("waiting for Vault's port: %w", err)
	}
	made, err := v.Root.Sys().InitWithContext(ctx, &vault.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising Vault: %w", err)
	}
	if err := errors.Join(v.space.Secrets.Add("an unseal key", made.KeysB64[0]), v.space.Secrets.Add("a root token", made.RootToken)); err != nil {
		return err
	}
	if _, err := v.Root.Sys().UnsealWithContext(ctx, made.KeysB64[0]); err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	v.Root.SetToken(made.RootToken)
	// A node that has just been unsealed is not active at once.
	if err := poll(ctx, func() error {
		return v.Root.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &vault.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": "stdout"}})
	}); err != nil {
		return fmt.Errorf("turning on Vault's audit log: %w", err)
	}
	return nil
}

// poll calls f until it succeeds, and returns its last error if that takes too long.
func poll(ctx context.Context, f func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Eventually calls f until it succeeds: what is waited for is in Vault, or in an
// object of which nothing but its content tells.
func (s *Space) Eventually(what string, f func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	if err := poll(ctx, f); err != nil {
		s.Fatalf("waiting for %s: %v", what, err)
	}
}

// Write writes to Vault with the root token.
func (v *Vault) Write(path string, data map[string]any) {
	v.space.Helper()
	if _, err := v.Root.Logical().WriteWithContext(v.space.Context(), path, data); err != nil {
		v.space.Fatalf("writing %s: %v", path, err)
	}
}

// Read reads what there is, or nil.
func (v *Vault) Read(path string) map[string]any {
	v.space.Helper()
	secret, err := v.Root.Logical().ReadWithContext(v.space.Context(), path)
	if err != nil {
		v.space.Fatalf("reading %s: %v", path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// Delete deletes what there is.
func (v *Vault) Delete(path string) {
	v.space.Helper()
	if _, err := v.Root.Logical().DeleteWithContext(v.space.Context(), path); err != nil {
		v.space.Fatalf("deleting %s: %v", path, err)
	}
}

// Policy writes an ACL policy.
func (v *Vault) Policy(name, rules string) {
	v.space.Helper()
	if err := v.Root.Sys().PutPolicyWithContext(v.space.Context(), name, rules); err != nil {
		v.space.Fatalf("writing policy %s: %v", name, err)
	}
}

// Roles are the names of a mount's roles, sorted as Vault sorts them. The mount is
// below auth/.
func (v *Vault) Roles(mount string) []string {
	v.space.Helper()
	secret, err := v.Root.Logical().ListWithContext(v.space.Context(), "auth/"+mount+"/role")
	if err != nil {
		v.space.Fatalf("listing the roles of %s: %v", mount, err)
	}
	if secret == nil {
		return nil
	}
	var names []string
	for _, name := range secret.Data["keys"].([]any) {
		names = append(names, name.(string))
	}
	return names
}

// Login logs in as a pod would, and revokes the token it gets.
func (v *Vault) Login(ctx context.Context, mount, role, jwt string) (*vault.SecretAuth, error) {
	client, err := v.Root.Clone() // without the token
	if err != nil {
		return nil, err
	}
	secret, err := client.Logical().WriteWithContext(ctx, "auth/"+mount+"/login", map[string]any{"role": role, "jwt": jwt})
	if err != nil {
		return nil, err
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, fmt.Errorf("Vault answered the login without a token: %+v", secret)
	}
	client.SetToken(secret.Auth.ClientToken)
	if !strings.HasPrefix(secret.Auth.ClientToken, "hvb.") {
		if err := client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
			return nil, fmt.Errorf("revoking the token: %w", err)
		}
	}
	return secret.Auth, nil
}

// Audit returns all that was asked of this Vault and answered, oldest first.
func (v *Vault) Audit() []AuditEntry {
	v.space.Helper()
	log, err := v.space.Kube.CoreV1().Pods(v.space.Name).GetLogs("vault", &corev1.PodLogOptions{}).DoRaw(v.space.Context())
	if err != nil {
		v.space.Fatalf("reading Vault's audit log: %v", err)
	}
	return parseAudit(log)
}

// Token requests a token of a ServiceAccount of the test's namespace for an
// audience, or for the API server's own where that is empty.
func (s *Space) Token(serviceAccount, audience string) string {
	s.Helper()
	token, err := s.TryToken(serviceAccount, audience, nil)
	if err != nil {
		s.Fatal(err)
	}
	return token
}

// TryToken is Token for a token that lives no longer than an object, if there is one.
func (s *Space) TryToken(serviceAccount, audience string, bound *authenticationv1.BoundObjectReference) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	made, err := s.Kube.CoreV1().ServiceAccounts(s.Name).CreateToken(s.Context(), serviceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("requesting a token of %s: %w", serviceAccount, err)
	}
	return made.Status.Token, nil
}

// Authenticates says whether the API server still takes a token.
func (s *Space) Authenticates(jwt string) bool {
	s.Helper()
	review, err := s.Kube.AuthenticationV1().TokenReviews().Create(s.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: jwt}}, metav1.CreateOptions{})
	if err != nil {
		s.Fatalf("reviewing a token: %v", err)
	}
	return review.Status.Authenticated
}

// Delegate lets a ServiceAccount of the test's namespace have tokens reviewed.
func (s *Space) Delegate(serviceAccount string) {
	s.Helper()
	bindings := s.Kube.RbacV1().ClusterRoleBindings()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name + "-" + serviceAccount + "-delegator"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Name, Name: serviceAccount}},
	}
	if _, err := bindings.Create(s.Context(), binding, metav1.CreateOptions{}); err != nil {
		s.Fatalf("binding %s to system:auth-delegator: %v", serviceAccount, err)
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := bindings.Delete(ctx, binding.Name, metav1.DeleteOptions{}); err != nil {
			s.Errorf("deleting ClusterRoleBinding %s: %v", binding.Name, err)
		}
	})
}
