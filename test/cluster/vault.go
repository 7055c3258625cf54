package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// VaultAddress is where pods reach the box's Vault.
const VaultAddress = "https://vault.vault.svc:8200"

// startVault applies Vault's manifests, initialises it, and sets up what every suite needs: an audit log on the
// container's standard output, auth method `kubernetes` with the pod's own token as the reviewer, and mounts `kv`
// (version 2) and `kv1`.
func (s *startup) startVault(ctx context.Context) error {
	ca, err := s.authority()
	if err != nil {
		return err
	}
	cert, key, err := ca.serving("vault.vault.svc", "vault", "vault.vault", "vault.vault.svc."+Domain, "localhost", "127.0.0.1", VaultIP)
	if err != nil {
		return err
	}
	// The namespace comes with the manifest, and the pod waits for its Secret.
	if err := s.applyFile(ctx, "vault.yaml"); err != nil {
		return err
	}
	if err := s.applySecret(ctx, "vault", "vault-tls", map[string][]byte{"tls.crt": cert, "tls.key": key}); err != nil {
		return err
	}
	client, err := s.vaultClient(ca.pem(), "")
	if err != nil {
		return err
	}
	if err := s.waitPod(ctx, "Vault's port", "vault", patience, func(ctx context.Context) error {
		_, err := client.Sys().InitStatusWithContext(ctx)
		return err
	}); err != nil {
		return err
	}
	init, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising Vault: %w", err)
	}
	for file, content := range map[string]string{"vault-unseal-key": init.KeysB64[0], "vault-root-token": init.RootToken} {
		if err := writeFile(s.path(file), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := s.applySecret(ctx, "vault", "vault-unseal", map[string][]byte{"key": []byte(init.KeysB64[0])}); err != nil {
		return err
	}
	// A changed pod is synchronised at once: the kubelet would put the Secret into it only after a minute or more.
	if err := s.quietKubectl(ctx, "annotate", "-n", "vault", "pod/vault-0", "latchkey.box/unseal-key=made"); err != nil {
		return err
	}
	if _, err := client.Sys().UnsealWithContext(ctx, init.KeysB64[0]); err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	client.SetToken(init.RootToken)
	if err := s.waitPod(ctx, "Vault", "vault", patience, func(ctx context.Context) error {
		_, err := client.Logical().ReadWithContext(ctx, "sys/mounts") // a node that has just been unsealed is not active at once
		return err
	}); err != nil {
		return err
	}
	return setUpVault(ctx, client)
}

func setUpVault(ctx context.Context, client *api.Client) error {
	sys := client.Sys()
	if err := sys.EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": "stdout"}}); err != nil {
		return fmt.Errorf("turning on Vault's audit log: %w", err)
	}
	if err := sys.EnableAuthWithOptionsWithContext(ctx, "kubernetes", &api.EnableAuthOptions{Type: "kubernetes"}); err != nil {
		return fmt.Errorf("turning on kubernetes auth: %w", err)
	}
	if _, err := client.Logical().WriteWithContext(ctx, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": "https://kubernetes.default.svc",
	}); err != nil {
		return fmt.Errorf("configuring kubernetes auth: %w", err)
	}
	for path, version := range map[string]string{"kv": "2", "kv1": "1"} {
		if err := sys.MountWithContext(ctx, path, &api.MountInput{Type: "kv", Options: map[string]string{"version": version}}); err != nil {
			return fmt.Errorf("mounting %s: %w", path, err)
		}
	}
	return nil
}

func (b Box) authority() (*authority, error) {
	return loadAuthority(b.path("ca.crt"), b.path("ca.key"))
}

// vaultClient returns a client of the box's Vault that works inside the box and outside.
func (b Box) vaultClient(ca []byte, token string) (*api.Client, error) {
	return newVaultClient("https://"+net.JoinHostPort(VaultIP, "8200"), ca, token, b.dial)
}

// newVaultClient makes a client that knows nothing of the environment.
func newVaultClient(address string, ca []byte, token string, dial func(context.Context, string, string) (net.Conn, error)) (*api.Client, error) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			os.Unsetenv(name) // the library reads these even when it is given everything
		}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, err := api.NewClient(&api.Config{
		Address:    address,
		HttpClient: &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}},
		Timeout:    30 * time.Second,
		MaxRetries: 0,
	})
	if err != nil {
		return nil, fmt.Errorf("making a Vault client: %w", err)
	}
	client.SetToken(token)
	return client, nil
}
