package cluster

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

// ensureParts finds the binaries in the cache or builds them.
func (s *startup) ensureParts(ctx context.Context) error {
	parts, err := build.Ensure(ctx, build.Options{
		Root:  s.Checkout,
		Cache: filepath.Dir(s.dir),
		Log:   s.Log,
		Want: []string{
			"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
			"containerd", "containerd-shim-runc-v2", "ctr", "runc", "host-local", "loopback", "portmap", "ptp",
			"images", "pause", "busybox", "coredns", "vault", "helm",
		},
	})
	if err != nil {
		return fmt.Errorf("building the parts of the box: %w", err)
	}
	s.parts = parts
	lasting := maps.Clone(parts)
	for _, tool := range []string{"images", "helm"} { // are not in the box
		delete(lasting, tool)
	}
	s.fingerprint, err = fingerprintOf(lasting)
	return err
}
