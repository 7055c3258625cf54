package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// secrets is how many an agent of the comparison reads, each into a file.
const secrets = 10

// vaultServer is a real Vault on loopback, with TLS and an audit log.
type vaultServer struct {
	address string
	ca      string // PEM file
	jwt     string // file with a ServiceAccount token that it takes
	root    *api.Client

	cmd      *exec.Cmd
	reviewer *httptest.Server
	audit    string
}

// startVault starts the program in dir, and gives it what the agents ask for:
// secrets, and auth method kubernetes with a role for each of the names.
func startVault(ctx context.Context, program, dir string, roles ...string) (_ *vaultServer, err error) {
	certificate := filepath.Join(dir, "tls")
	if err := os.Mkdir(certificate, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory for the certificate: %w", err)
	}
	roots, err := writeCertificate(certificate)
	if err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	v := &vaultServer{
		address: "https://" + listen, ca: filepath.Join(certificate, "tls.crt"), jwt: filepath.Join(dir, "jwt"),
		audit: filepath.Join(dir, "audit.log"), reviewer: httptest.NewTLSServer(http.HandlerFunc(review)),
	}
	if err := os.WriteFile(v.jwt, []byte(serviceAccountToken()), 0o600); err != nil {
		return nil, fmt.Errorf("writing a ServiceAccount token: %w", err)
	}
	if v.root, err = api.NewClient(&api.Config{
		Address: v.address, Timeout: 10 * time.Second,
		HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}); err != nil {
		return nil, fmt.Errorf("making a Vault client: %w", err)
	}
	v.cmd = exec.CommandContext(ctx, program, "-listen", listen, "-data", filepath.Join(dir, "vault"), "-log-level", "off",
		"-tls-cert", v.ca, "-tls-key", filepath.Join(certificate, "tls.key"))
	v.cmd.Stdout, v.cmd.Stderr = os.Stderr, os.Stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting Vault: %w", err)
	}
	defer func() {
		if err != nil {
			v.stop()
		}
	}()
	if err := v.unseal(ctx); err != nil {
		return nil, err
	}
	return v, v.setUp(ctx, roles)
}

func (v *vaultServer) stop() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
	v.reviewer.Close()
}

// unseal initialises Vault as soon as it answers.
func (v *vaultServer) unseal(ctx context.Context) error {
	var secret *api.InitResponse
	if err := poll(ctx, 30*time.Second, 50*time.Millisecond, "Vault to answer", func() (err error) {
		secret, err = v.root.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		return err
	}); err != nil {
		return err
	}
	if _, err := v.root.Sys().UnsealWithContext(ctx, secret.KeysB64[0]); err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	v.root.SetToken(secret.RootToken)
	return poll(ctx, 30*time.Second, 50*time.Millisecond, "Vault to be active", func() error {
		_, err := v.root.Sys().ListMountsWithContext(ctx)
		return err
	})
}

func (v *vaultServer) setUp(ctx context.Context, roles []string) error {
	sys := v.root.Sys()
	if err := errors.Join(
		sys.EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": v.audit}}),
		sys.EnableAuthWithOptionsWithContext(ctx, "kubernetes", &api.EnableAuthOptions{Type: "kubernetes"}),
		sys.MountWithContext(ctx, "kv", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}),
		sys.PutPolicyWithContext(ctx, namespace, `path "kv/data/bench/*" { capabilities = ["read"] }`),
	); err != nil {
		return fmt.Errorf("setting Vault up: %w", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.reviewer.Certificate().Raw})
	writes := map[string]map[string]any{
		"auth/kubernetes/config": {"kubernetes_host": v.reviewer.URL, "kubernetes_ca_cert": string(ca), "token_reviewer_jwt": "reviewer"},
	}
	for _, role := range roles {
		writes["auth/kubernetes/role/"+role] = map[string]any{
			"bound_service_account_names": "app", "bound_service_account_namespaces": namespace, "audience": "vault",
			"token_policies": namespace, "token_ttl": "1h",
		}
	}
	for path, data := range writes {
		if _, err := v.root.Logical().WriteWithContext(ctx, path, data); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return poll(ctx, 30*time.Second, 50*time.Millisecond, "the mount kv", func() error { // which Vault upgrades first
		for i := range secrets {
			if _, err := v.root.KVv2("kv").Put(ctx, fmt.Sprintf("bench/app%d", i), map[string]any{"username": "app", "password": password(i)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func password(i int) string { return fmt.Sprintf("password-%d", i) }

// calls counts what tokens of a role have asked of Vault since the log was so
// long, by kind, and returns how long it is now.
func (v *vaultServer) calls(role string, since int64) (map[string]int, int64, error) {
	file, err := os.Open(v.audit)
	if err != nil {
		return nil, 0, fmt.Errorf("reading Vault's audit log: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(since, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("reading Vault's audit log: %w", err)
	}
	counts, lines, length := make(map[string]int), bufio.NewReader(file), since
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return counts, length, nil // what has no end is still being written
		}
		length += int64(len(text))
		var line struct {
			Type    string
			Request struct{ Operation, Path string }
			Auth    struct{ Metadata map[string]string }
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, 0, fmt.Errorf("reading Vault's audit log: %w", err)
		}
		if line.Type != "response" || line.Auth.Metadata["role"] != role {
			continue
		}
		kind := line.Request.Operation + " " + line.Request.Path
		for prefix, name := range map[string]string{
			"auth/kubernetes/login": "login", "auth/token/renew-self": "renewal", "sys/internal/ui/mounts/": "mount", "kv/data/": "read",
		} {
			if strings.HasPrefix(line.Request.Path, prefix) {
				kind = name
			}
		}
		counts[kind]++
	}
}

// serviceAccountToken is one as the API server makes it. Nobody checks the
// signature: Vault asks the reviewer.
func serviceAccountToken() string {
	encode := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	now := time.Now()
	return strings.Join([]string{encode(map[string]string{"alg": "RS256", "typ": "JWT"}), encode(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:" + namespace + ":app",
		"aud": []string{"vault"}, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": "app", "uid": serviceAccountUID}},
	}), base64.RawURLEncoding.EncodeToString([]byte("signature"))}, ".")
}

const serviceAccountUID = "0b6b1c5e-6f0c-4a52-9c2f-0d9a2f1f9f11"

// review answers as the API server does when Vault asks whose token it got.
func review(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"status": map[string]any{
			"authenticated": true, "audiences": []string{"vault"},
			"user": map[string]any{"username": "system:serviceaccount:" + namespace + ":app", "uid": serviceAccountUID},
		},
	})
}

// freeAddress is a port of loopback that nobody listens on.
func freeAddress() (string, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a port: %w", err)
	}
	defer free.Close()
	return free.Addr().String(), nil
}

// poll asks until it gets no error, for so long at most.
func poll(ctx context.Context, patience, pause time.Duration, what string, ask func() error) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
