package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// pair is as much of a cluster as a short-lived reviewer asks for.
type pair struct {
	cluster.API
	v       *vaulttest.Vault
	secrets map[string]cluster.Secret
	made    int
}

func (p *pair) CA(context.Context) (string, error) { return p.v.Kubernetes.CA, nil }

func (p *pair) Token(_ context.Context, account, audience string, life time.Duration, _ *cluster.Secret) (cluster.Token, error) {
	if audience == "" {
		audience = "https://kubernetes.default.svc"
	}
	_, name, _ := strings.Cut(account, "/")
	jwt := p.v.Kubernetes.Token(name, life, audience)
	return cluster.Token{JWT: sealed.Of(p.v.Secret(jwt)), Issued: time.Now(), Expires: time.Now().Add(life)}, nil
}

func (p *pair) Review(context.Context, sealed.Value[string], sealed.Value[string], string) error {
	return nil
}

func (p *pair) Secret(_ context.Context, name string, _ bool) (cluster.Secret, error) {
	p.made++
	p.secrets[name] = cluster.Secret{Name: name, UID: fmt.Sprint(p.made)}
	return p.secrets[name], nil
}

func (p *pair) FindSecret(_ context.Context, name string) (found *cluster.Secret, _ sealed.Value[string], _ error) {
	if s, ok := p.secrets[name]; ok {
		found = &s
	}
	return found, sealed.Value[string]{}, nil
}

func (p *pair) DeleteSecret(_ context.Context, s cluster.Secret) error {
	delete(p.secrets, s.Name)
	return nil
}

// A real Vault takes what the reviewer writes, shows whose token it is, and has
// the config before again where a new one does not work.
func TestReviewerTokensInVault(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	const mount = "clusters/reviewed"
	k := keep(t, v, mount)
	edge := &pair{v: v, secrets: map[string]cluster.Secret{}}
	settings := reviewer.Settings{Mode: reviewer.ShortLived, ServiceAccount: vaulttest.Namespace + "/latchkey-reviewer", Audience: vaulttest.Audience, Host: v.Kubernetes.URL, Hold: true}
	r := reviewer.New(settings, edge, k.client)
	round := func() (plan.Plan, error) {
		t.Helper()
		wanted, err := r.Target(t.Context(), k.record)
		if err != nil {
			t.Fatal(err)
		}
		k.target.Config, k.target.NewCredential, k.target.Own = wanted.Config, wanted.NewCredential, wanted.Own
		k.target.ReviewerToken, k.target.Mark = wanted.ReviewerToken, wanted.Mark
		p := k.plan()
		_, k.record, err = apply.Run(t.Context(), p, apply.Deps{Vault: k.client, Records: nowhere{}, Config: r, Stored: k.record})
		return p, err
	}
	must := func(steps int) {
		t.Helper()
		if p, err := round(); err != nil || len(p.Steps) != steps {
			t.Fatalf("steps %v, want %d: %v", p.Steps, steps, err)
		}
	}
	must(3) // mount, probe's role, config
	must(0)
	marked := func() string {
		ca := fmt.Sprint(v.Get("auth/" + mount + "/config")["kubernetes_ca_cert"])
		line, _, _ := strings.Cut(ca, "\n")
		return line
	}
	if got := marked(); got != "# Reviewer token: Secret latchkey-reviewer-a, uid 1" {
		t.Errorf("Vault's config says %q", got)
	}

	// Somebody writes the same config with another token.
	v.Write("auth/"+mount+"/config", map[string]any{"kubernetes_host": v.Kubernetes.URL, "kubernetes_ca_cert": v.Kubernetes.CA,
		"disable_local_ca_jwt": true, "token_reviewer_jwt": "nonsense"})
	must(1)
	if got := marked(); got != "# Reviewer token: Secret latchkey-reviewer-b, uid 2" {
		t.Errorf("Vault's config says %q", got)
	}

	// A host that Vault does not reach.
	r.Host = "https://127.0.0.1:1"
	if _, err := round(); err == nil || !strings.Contains(err.Error(), "the config before is back and works") {
		t.Errorf("got %v", err)
	}
	if got := v.Get("auth/" + mount + "/config")["kubernetes_host"]; got != v.Kubernetes.URL {
		t.Errorf("Vault's config has the host %v", got)
	}
	r.Host = v.Kubernetes.URL
	must(0)
}
