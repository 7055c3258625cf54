package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// The published policy is enough for every call, and nothing of it can be left
// out: where a line or a capability is missing, a call says which.
func TestAuthconfigPolicyIsMinimal(t *testing.T) {
	t.Parallel()
	v := visitorVault(t)
	all := vault.Policy(kept)
	full := byJWT(t, v, "authconfig")
	for _, k := range []*visitor{full, visitMount(t, v, "jwt", config.Auth{Method: "jwt", Mount: "jwt", Role: "authconfig"})} {
		if errs := useAll(t, k, k); len(errs) > 0 {
			t.Fatalf("with all of the policy, type %s: %q", k.typ, errs)
		}
	}
	type cut struct{ policy, path, capability string }
	var cuts []cut
	for _, line := range regexp.MustCompile(`(?m)^path "(.*)" \{ capabilities = \[(.*)\] \}$`).FindAllStringSubmatch(all, -1) {
		cuts = append(cuts, cut{strings.ReplaceAll(all, line[0], ""), line[1], ""})
		capabilities := strings.Split(line[2], ", ")
		for i, capability := range capabilities {
			less := slices.Delete(slices.Clone(capabilities), i, i+1)
			cuts = append(cuts, cut{strings.ReplaceAll(all, line[0], fmt.Sprintf("path %q { capabilities = [%s] }", line[1], strings.Join(less, ", "))), line[1], capability})
		}
	}
	if len(cuts) < 15 {
		t.Fatalf("the policy has only %d lines and capabilities:\n%s", len(cuts), all)
	}
	for i, c := range cuts {
		role := fmt.Sprintf("cut%d", i)
		visitorRole(v, role, c.policy)
		k := byJWT(t, v, role)
		errs := useAll(t, k, full)
		said := slices.ContainsFunc(errs, func(err string) bool {
			_, needs, _ := strings.Cut(err, "this needs ")
			needs, line, _ := strings.Cut(needs, ", and authconfig's policy lacks it: ")
			return strings.HasPrefix(line, fmt.Sprintf("path %q { capabilities = [", c.path)) && strings.Contains(needs, c.capability)
		})
		if !said {
			t.Errorf("without %s %s: %q", c.path, c.capability, errs)
		}
		for _, err := range errs {
			if !strings.Contains(err, fmt.Sprintf("path %q", c.path)) {
				t.Errorf("without %s %s: %s", c.path, c.capability, err)
			}
		}
	}
}

// useAll makes every call that authconfig makes, and returns what the errors
// say. What k may not do is done by full, so that the others find it done. In
// the end the mount is gone.
func useAll(t *testing.T, k, full *visitor) (errs []string) {
	t.Helper()
	ctx := t.Context()
	bound := map[string]any{"bound_service_account_names": []any{"a"}, "bound_service_account_namespaces": []any{"b"}}
	settings := map[string]any{"kubernetes_host": "https://kubernetes.example", "disable_local_ca_jwt": true}
	token := sealed.Of(k.v.Secret("reviewer-token-of-the-test"))
	if k.typ == "jwt" {
		bound = map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": []any{"vault"}}
		settings = map[string]any{"jwt_validation_pubkeys": []any{k.v.Kubernetes.PublicKey}}
		token = sealed.Value[string]{}
	}
	role := func(ttl int64) desired.Fields {
		bound["token_ttl"] = ttl
		return desired.Canonical(k.typ, bound)
	}
	for _, call := range []func(*visitor) error{
		func(k *visitor) error { _, err := k.Observe(ctx); return err },
		func(k *visitor) error { _, err := k.Enable(ctx, k.typ, plan.Tune{}); return err },
		func(k *visitor) error { return k.Tune(ctx, plan.Tune{Description: "of the test"}) },
		func(k *visitor) error { return k.WriteConfig(ctx, desired.CanonicalConfig(k.typ, settings), token) },
		func(k *visitor) error { return k.WriteRole(ctx, "app", nil, role(60)) },
		func(k *visitor) error { return k.WriteRole(ctx, "app", role(60), role(120)) },
		func(k *visitor) error { _, err := k.Observe(ctx); return err },
		func(k *visitor) error { return k.DeleteRole(ctx, "app") },
	} {
		err := call(k)
		if err == nil {
			continue
		}
		k.v.CheckNoLeak("an error", err.Error())
		errs = append(errs, err.Error())
		if err := call(full); err != nil && !strings.Contains(err.Error(), "path is already in use") {
			t.Fatalf("with all of the policy: %v", err)
		}
	}
	k.v.Delete("sys/auth/" + kept)
	return errs
}
