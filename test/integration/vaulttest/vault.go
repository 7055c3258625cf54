package vaulttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Options say what a Vault is like.
type Options struct {
	TLS bool // with a CA of its own
	// Raft makes it the first node of a cluster, which others can Join. Standbys
	// answer 307.
	Raft bool
}

// A Vault is one server with its storage. It is unsealed, has an audit log, the
// auth methods kubernetes and jwt (both take the tokens of Kubernetes), and the
// engines kv (version 2) and kv1 (version 1).
type Vault struct {
	// Address is its URL. It has an IP address of its own, so that its port
	// stays free for it while it is down.
	Address string
	// Root is a client with the root token. What it does is not in Audit.
	Root *api.Client
	// Authority has issued its certificate, and CAFile holds it; only with TLS.
	Authority *Authority
	CAFile    string

	Kubernetes *APIServer

	t       testing.TB
	dir     string // all files of the test
	host    string // address and port
	unseal  string
	raft    bool
	process *process

	mu      sync.Mutex
	secrets map[string]bool
}

// Start starts a Vault that ends with the test.
func Start(t testing.TB, o Options) *Vault {
	t.Helper()
	v := &Vault{t: t, dir: folder(t), host: loopback(t), Kubernetes: newAPIServer(t), raft: o.Raft}
	v.Address = "http://" + v.host
	if o.TLS {
		v.Address = "https://" + v.host
		v.CAFile = filepath.Join(v.dir, "ca.crt")
		v.RotateCA()
	}
	v.Root = v.client()
	t.Cleanup(v.Kill)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last that Vault was asked:\n%s", tail(strings.Join(v.Calls(), "\n")))
		}
	})
	v.launch()
	ctx := t.Context()
	init, err := v.Root.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		t.Fatalf("initialising Vault: %v", err)
	}
	v.unseal = init.KeysB64[0]
	v.Root.SetToken(init.RootToken)
	v.Secret(v.unseal)
	v.Unseal()
	if err := v.setUp(ctx); err != nil {
		t.Fatalf("setting up Vault: %v", err)
	}
	return v
}

func (v *Vault) setUp(ctx context.Context) error {
	sys := v.Root.Sys()
	if err := sys.EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": v.auditFile(), "hmac_accessor": "false"},
	}); err != nil {
		return err
	}
	for _, method := range []string{"kubernetes", "jwt"} {
		if err := sys.EnableAuthWithOptionsWithContext(ctx, method, &api.EnableAuthOptions{Type: method}); err != nil {
			return err
		}
	}
	for path, version := range map[string]string{"kv": "2", "kv1": "1"} {
		if err := sys.MountWithContext(ctx, path, &api.MountInput{Type: "kv", Options: map[string]string{"version": version}}); err != nil {
			return err
		}
	}
	v.Write("auth/kubernetes/config", map[string]any{
		"kubernetes_host": v.Kubernetes.URL, "kubernetes_ca_cert": v.Kubernetes.CA,
		"token_reviewer_jwt": v.Kubernetes.Token("reviewer", time.Hour), "disable_local_ca_jwt": true,
	})
	v.Write("auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{v.Kubernetes.PublicKey}})
	// A new mount of version 2 is not ready at once.
	Wait(v.t, "the KV engine", func() error {
		_, err := v.Root.Logical().ReadWithContext(ctx, "kv/config")
		return err
	})
	return nil
}

// launch starts the process and waits until it answers.
func (v *Vault) launch() {
	v.t.Helper()
	program, err := vaultProgram()
	if err != nil {
		v.t.Fatal(err)
	}
	args := []string{"-listen", v.host, "-api-addr", v.Address, "-data", filepath.Join(v.dir, "vault"), "-log-level", "debug"}
	if v.Authority != nil {
		args = append(args, "-tls-cert", filepath.Join(v.dir, "vault.crt"), "-tls-key", filepath.Join(v.dir, "vault.key"))
	}
	if v.raft {
		args = append(args, "-raft", v.raftAddress())
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if v.process, err = launch(filepath.Join(v.dir, "vault.log"), cmd); err != nil {
		v.t.Fatal(err)
	}
	Wait(v.t, "Vault at "+v.Address, func() error {
		if !v.process.running() {
			return errors.New("it has ended")
		}
		_, err := v.Root.Sys().InitStatusWithContext(v.t.Context())
		return err
	})
}

// Kill ends Vault with SIGKILL. Its storage stays.
func (v *Vault) Kill() { v.process.end(syscall.SIGKILL) }

// Stop ends Vault with SIGTERM.
func (v *Vault) Stop() { v.process.end(syscall.SIGTERM) }

// Restart starts Vault again after Kill or Stop, and unseals it.
func (v *Vault) Restart() {
	v.t.Helper()
	v.RestartSealed()
	v.Unseal()
}

// RestartSealed starts Vault again after Kill or Stop.
func (v *Vault) RestartSealed() {
	v.t.Helper()
	v.launch()
}

// Seal seals Vault.
func (v *Vault) Seal() {
	v.t.Helper()
	if err := v.Root.Sys().SealWithContext(v.t.Context()); err != nil {
		v.t.Fatalf("sealing Vault: %v", err)
	}
}

// Unseal unseals Vault and waits until it works.
func (v *Vault) Unseal() {
	v.t.Helper()
	if _, err := v.Root.Sys().UnsealWithContext(v.t.Context(), v.unseal); err != nil {
		v.t.Fatalf("unsealing Vault: %v", err)
	}
	Wait(v.t, "Vault to be active", func() error {
		_, err := v.Root.Logical().ReadWithContext(v.t.Context(), "sys/mounts")
		return err
	})
}

// RotateCA makes another CA, whose certificate Vault serves from its next
// connection on. CAFile holds the new CA.
func (v *Vault) RotateCA() {
	v.t.Helper()
	v.Authority = NewAuthority(v.t)
	cert, key := v.Authority.Issue(v.t, strings.TrimSuffix(v.host, ":8200"))
	v.writeFile("vault.key", key)
	v.writeFile("vault.crt", cert)
	v.writeFile("ca.crt", v.Authority.PEM())
	if v.Root != nil {
		token := v.Root.Token()
		v.Root = v.client()
		v.Root.SetToken(token)
	}
}

// client makes one that knows nothing of the environment.
func (v *Vault) client() *api.Client {
	v.t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			os.Unsetenv(name) // the library reads these even when it is given everything
		}
	}
	client, err := api.NewClient(&api.Config{Address: v.Address, HttpClient: &http.Client{Transport: v.Transport()}, Timeout: 30 * time.Second})
	if err != nil {
		v.t.Fatal(err)
	}
	client.SetMaxRetries(0)
	return client
}

// Transport is one that trusts Vault's CA, for a proxy before Vault.
func (v *Vault) Transport() *http.Transport {
	t := &http.Transport{TLSClientConfig: &tls.Config{}}
	if v.Authority != nil {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		t.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(v.Authority.PEM()))
	}
	return t
}

// Client makes a client with a token that is not the root's.
func (v *Vault) Client(token string) *api.Client {
	v.t.Helper()
	c := v.client()
	c.SetToken(token)
	return c
}

// Role makes a policy, and a role for it in both auth methods. Its only
// ServiceAccount is the one of the same name in Namespace. Settings are fields
// of the role, such as token_ttl, and may be nil.
func (v *Vault) Role(name, policy string, settings map[string]any) {
	v.t.Helper()
	v.Policy(name, policy)
	common := map[string]any{"token_policies": []string{name}, "token_ttl": "1h"}
	maps.Copy(common, settings)
	kubernetes := maps.Clone(common)
	maps.Copy(kubernetes, map[string]any{
		"bound_service_account_names": []string{name}, "bound_service_account_namespaces": []string{Namespace}, "audience": Audience,
	})
	v.Write("auth/kubernetes/role/"+name, kubernetes)
	jwt := maps.Clone(common)
	maps.Copy(jwt, map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{Audience},
		"bound_subject": "system:serviceaccount:" + Namespace + ":" + name,
	})
	v.Write("auth/jwt/role/"+name, jwt)
}

// Policy writes a policy.
func (v *Vault) Policy(name, policy string) {
	v.t.Helper()
	v.Write("sys/policies/acl/"+name, map[string]any{"policy": policy})
}

// Read is a policy that lets the paths be read and written, globs included.
func Read(paths ...string) string {
	var b strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&b, "path %q { capabilities = [\"read\", \"create\", \"update\", \"list\"] }\n", path)
	}
	return b.String()
}

// Write writes with the root token and returns the answer's data.
func (v *Vault) Write(path string, data map[string]any) map[string]any {
	v.t.Helper()
	secret, err := v.Root.Logical().WriteWithContext(v.t.Context(), path, data)
	return v.data("writing", path, secret, err)
}

// Get reads with the root token; nil is nothing there.
func (v *Vault) Get(path string) map[string]any {
	v.t.Helper()
	secret, err := v.Root.Logical().ReadWithContext(v.t.Context(), path)
	return v.data("reading", path, secret, err)
}

// Delete deletes with the root token.
func (v *Vault) Delete(path string) {
	v.t.Helper()
	secret, err := v.Root.Logical().DeleteWithContext(v.t.Context(), path)
	v.data("deleting", path, secret, err)
}

func (v *Vault) data(doing, path string, secret *api.Secret, err error) map[string]any {
	v.t.Helper()
	if err != nil {
		v.t.Fatalf("%s %s: %v", doing, path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// KV writes kv/data/<path>, or kv1/<path> where the path begins with kv1/. Its
// strings are registered as secrets.
func (v *Vault) KV(path string, data map[string]any) {
	v.t.Helper()
	for _, value := range data {
		if s, ok := value.(string); ok && len(s) >= 8 {
			v.Secret(s)
		}
	}
	if strings.HasPrefix(path, "kv1/") {
		v.Write(path, data)
		return
	}
	v.Write("kv/data/"+path, map[string]any{"data": data})
}

// Mount mounts an engine.
func (v *Vault) Mount(path, kind string, tune api.MountConfigInput) {
	v.t.Helper()
	if err := v.Root.Sys().MountWithContext(v.t.Context(), path, &api.MountInput{Type: kind, Config: tune}); err != nil {
		v.t.Fatalf("mounting %s: %v", path, err)
	}
}

func (v *Vault) writeFile(name, content string) {
	v.t.Helper()
	// What reads it meanwhile sees all of the old or all of the new.
	file := filepath.Join(v.dir, name)
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		v.t.Fatal(err)
	}
}

// loopback is an address that nobody else uses, with a port.
func loopback(t testing.TB) string {
	t.Helper()
	for range 100 {
		host := fmt.Sprintf("127.%d.%d.%d:8200", 1+rand.N(254), rand.N(256), 1+rand.N(254))
		if l, err := net.Listen("tcp", host); err == nil {
			l.Close()
			return host
		}
	}
	t.Fatal("no address of 127.0.0.0/8 can be listened on")
	return ""
}
