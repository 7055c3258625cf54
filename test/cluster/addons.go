package cluster

import "context"

// addons starts what runs in the cluster: DNS and Vault.
func (s *startup) addons(ctx context.Context) error {
	if err := s.applyFile(ctx, "dns.yaml"); err != nil {
		return err
	}
	if err := s.startVault(ctx); err != nil {
		return err
	}
	for _, w := range []struct{ what, namespace, object, condition string }{
		{"node " + NodeName, "default", "node/" + NodeName, "condition=Ready"},
		{"cluster DNS", "kube-system", "deployment/coredns", "condition=Available"},
		{"Vault's pod", "vault", "pod/vault-0", "condition=Ready"},
	} {
		if err := s.waitPod(ctx, w.what, w.namespace, patience, func(ctx context.Context) error {
			return s.quietKubectl(ctx, "wait", "-n", w.namespace, "--for="+w.condition, "--timeout=5s", w.object)
		}); err != nil {
			return err
		}
	}
	return nil
}
