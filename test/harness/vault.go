package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/leaks"
)

// Audience is what the suites' roles and the injector's connection agree on.
const Audience = "vault"

// Role makes a role, named as the space, for one ServiceAccount of it, with a
// policy for the space's own paths: kv/<space>/* and kv1/<space>/*.
func (s *Space) Role(serviceAccount string) {
	s.Helper()
	s.ServiceAccount(serviceAccount)
	policy := fmt.Sprintf("path \"kv/data/%[1]s/*\" { capabilities = [\"read\"] }\npath \"kv1/%[1]s/*\" { capabilities = [\"read\"] }\n", s.Name)
	if err := s.WriteRole(s.Context(), cluster.Role{
		Name: s.Name, Namespaces: []string{s.Name}, ServiceAccounts: []string{serviceAccount},
		Audience: Audience, Policy: policy, TTL: time.Hour,
	}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		for _, path := range []string{"auth/kubernetes/role/" + s.Name, "sys/policies/acl/" + s.Name} {
			if _, err := s.Root.Logical().Delete(path); err != nil {
				s.Errorf("deleting %s: %v", path, err)
			}
		}
	})
}

// VaultWrite writes to Vault with the root token. What is secret in it the test
// has to Keep.
func (s *Space) VaultWrite(path string, data map[string]any) {
	s.Helper()
	if _, err := s.Root.Logical().WriteWithContext(s.Context(), path, data); err != nil {
		s.Fatalf("writing %s: %v", path, err)
	}
}

// Secret stores kv/<space>/<name> in the KV v2 engine. Its values may be shown
// nowhere, but for those that are too short to be looked for: at least one must
// not be.
func (s *Space) Secret(name string, data map[string]any) {
	s.Helper()
	kept := false
	for key, value := range data {
		if text, ok := value.(string); ok && len(text) >= leaks.Shortest {
			s.Keep("kv/"+s.Name+"/"+name+" "+key, text)
			kept = true
		}
	}
	if !kept {
		s.Fatalf("no value of the secret %s can be looked for: give it one of at least %d bytes", name, leaks.Shortest)
	}
	s.VaultWrite("kv/data/"+s.Name+"/"+name, map[string]any{"data": data})
}

// Keep says of a value that it may be shown nowhere.
func (s *Space) Keep(name, value string) {
	s.Helper()
	if err := s.Secrets.Add(name, value); err != nil {
		s.Fatal(err)
	}
}

// An AuditEntry is one request as Vault's audit device saw it answered.
type AuditEntry struct {
	Time      time.Time
	Operation string // update, read, …
	Path      string
	Namespace string // of the ServiceAccount that asked, as its login stated
	Role      string // that it logged in with
	Display   string // name of the token, such as "root"
	Accessor  string // of the token, keyed-hashed by Vault
	Error     string
}

func (e AuditEntry) String() string { return e.Operation + " " + e.Path }

// Audit returns what the pods of a Kubernetes namespace asked of Vault, oldest
// first. Vault writes its audit log to its standard output.
func (c *Cluster) Audit(ctx context.Context, namespace string) ([]AuditEntry, error) {
	pods, err := c.Kube.CoreV1().Pods("vault").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing Vault's pods: %w", err)
	}
	var entries []AuditEntry
	for _, pod := range pods.Items {
		log, err := c.Kube.CoreV1().Pods("vault").GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading Vault's audit log: %w", err)
		}
		for _, e := range parseAudit(log) {
			if e.Namespace == namespace {
				entries = append(entries, e)
			}
		}
	}
	return entries, nil
}

func parseAudit(log []byte) []AuditEntry {
	var entries []AuditEntry
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var line struct {
			Time    time.Time
			Type    string
			Error   string
			Request struct{ Operation, Path string }
			Auth    struct {
				Accessor    string
				DisplayName string `json:"display_name"`
				Metadata    map[string]string
			}
			Response struct {
				Auth struct{ Accessor string }
			}
		}
		// The server's own log stands between the audit lines.
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Type != "response" {
			continue
		}
		entries = append(entries, AuditEntry{
			Time: line.Time, Error: line.Error,
			Operation: line.Request.Operation, Path: line.Request.Path,
			Namespace: line.Auth.Metadata["service_account_namespace"], Role: line.Auth.Metadata["role"],
			Display: line.Auth.DisplayName, Accessor: line.Auth.Accessor,
		})
	}
	return entries
}

// Audit returns what the test's pods asked of Vault, as "operation path" lines.
func (s *Space) Audit() []string {
	s.Helper()
	entries, err := s.Cluster.Audit(s.Context(), s.Name)
	if err != nil {
		s.Fatal(err)
	}
	var lines []string
	for _, e := range entries {
		lines = append(lines, strings.TrimSpace(e.String()))
	}
	return lines
}
