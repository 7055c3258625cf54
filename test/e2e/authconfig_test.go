package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// What an authconfig writes to a Vault of the test's own is looked at in that
// Vault, and by logging in there.

// reviewers has for each mode what Vault's config then holds, but for host and CA.
var reviewers = map[string]struct {
	local    bool   // Vault's pod has a token of its own
	audience string // of the tokens that are shown at a login; empty is the API server's
	config   map[string]any
}{
	"local":       {true, harness.Audience, map[string]any{"token_reviewer_jwt_set": false, "disable_local_ca_jwt": false}},
	"client":      {false, "", map[string]any{"token_reviewer_jwt_set": false, "disable_local_ca_jwt": true}},
	"long-lived":  {false, harness.Audience, map[string]any{"token_reviewer_jwt_set": true, "disable_local_ca_jwt": true}},
	"short-lived": {false, harness.Audience, map[string]any{"token_reviewer_jwt_set": true, "disable_local_ca_jwt": true}},
	"jwt":         {false, harness.Audience, nil},
}

// In each mode of the reviewer an annotated pod gets its file from a Vault that
// had nothing but authconfig's login, a stranger does not, and what becomes of a
// ServiceAccount that is deleted is what the mode promises.
func TestReviewers(t *testing.T) {
	t.Parallel()
	for _, mode := range slices.Sorted(maps.Keys(reviewers)) {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			want := reviewers[mode]
			s := suite.Space(t)
			v := s.OwnVault(want.local)
			s.ServiceAccount("app")
			s.ServiceAccount("stranger")
			switch mode {
			case "local":
				s.Delegate("vault")
			case "client":
				s.Delegate("app")
			}
			secretOf(s, v)
			s.SetRoles(map[string]string{"app": s.RoleFor("app", map[string]any{"token_policies": "app"})})
			a := s.Authconfig(v, "reviewer: {mode: "+mode+"}")
			a.WaitLogin("app", "app", want.audience)
			if err := a.Login("app", "stranger", want.audience); err == nil {
				t.Error("a ServiceAccount that is not the role's can log in")
			}
			wantConfig(t, a, mode)

			method := "kubernetes"
			if mode == "jwt" {
				method = "jwt"
			}
			connect(t, s, map[string]any{"connections": map[string]any{"default": map[string]any{
				"address": v.Address, "ca": string(suite.CA()),
				"auth": map[string]any{"method": method, "mount": a.Mount, "audience": want.audience, "role": "app"},
			}}})
			s.Create(pod{name: "app", annotations: "latchkey.dev/inject: \"true\"\nlatchkey.dev/files: \"[{path: app.env, secret: kv/app, format: env}]\"\n",
				script: readFirst + stay}.String())
			s.WaitPod("app", "ready", harness.Ready)
			wantLog(s, "app")

			token := s.Token("app", want.audience)
			if err := s.Kube.CoreV1().ServiceAccounts(s.Name).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if mode == "jwt" {
				if _, err := v.Login(t.Context(), a.Mount, "app", token); err != nil {
					t.Errorf("the token of a deleted ServiceAccount is refused (%v), which the documentation says that it is not: nobody asks the API server", err)
				}
				return
			}
			// The API server may not have heard of it itself yet.
			poll(t, "logins to be refused", func() bool {
				_, err := v.Login(t.Context(), a.Mount, "app", token)
				return err != nil && strings.Contains(err.Error(), "permission denied")
			})
		})
	}
}

// secretOf stores the suite's usual secret as kv/app in a Vault of the test's own,
// with the policy app to read it.
func secretOf(s *harness.Space, v *harness.Vault) {
	s.Helper()
	s.Keep("kv/app of "+s.Name, password)
	v.Write("sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	v.Write("kv/app", map[string]any{"USER": "app", "PASSWORD": password})
	v.Policy("app", `path "kv/app" { capabilities = ["read"] }`)
}

// wantConfig compares what Vault holds of a mode with what it should.
func wantConfig(t *testing.T, a *harness.Authconfig, mode string) {
	t.Helper()
	got := a.Vault.Read("auth/" + a.Mount + "/config")
	if mode == "jwt" {
		var keys []string
		for _, k := range got["jwt_validation_pubkeys"].([]any) {
			keys = append(keys, strings.TrimSpace(k.(string)))
		}
		for _, k := range a.ClusterKeys() {
			if !slices.Contains(keys, strings.TrimSpace(k)) {
				t.Errorf("Vault verifies with the keys\n%s\nand not with the cluster's\n%s", strings.Join(keys, "\n"), k)
			}
		}
		return
	}
	want := maps.Clone(reviewers[mode].config)
	want["kubernetes_host"], want["disable_iss_validation"], want["issuer"] = "https://kubernetes.default.svc", true, ""
	want["kubernetes_ca_cert"] = ""
	if mode != "local" {
		want["kubernetes_ca_cert"] = strings.TrimSpace(clusterCA(t, a.Space))
	}
	for field, value := range want {
		has := got[field]
		if text, ok := has.(string); ok {
			has = strings.TrimSpace(text[max(0, strings.Index(text, "-----BEGIN")):]) // a comment before says whose token it is
		}
		if fmt.Sprint(has) != fmt.Sprint(value) {
			t.Errorf("Vault's config has %s %v, want %v", field, has, value)
		}
	}
}

// clusterCA is the bundle that pods verify the API server with.
func clusterCA(t *testing.T, s *harness.Space) string {
	t.Helper()
	m, err := s.Kube.CoreV1().ConfigMaps(s.Name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Data["ca.crt"]
}
