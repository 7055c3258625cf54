package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
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

// Add builds programs that the box starts without, for the suites that use them, and links them beside its own. Here and
// not in a test, since a test is in the box's network, where nothing can be fetched.
func (b Box) Add(ctx context.Context, o Options, names []string) error {
	if _, err := b.running(); err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("adding to the box: no program is named (cert-manager, vault-full)")
	}
	parts, err := build.Ensure(ctx, build.Options{Root: o.Checkout, Cache: filepath.Dir(b.dir), Log: o.Log, Want: names})
	if err != nil {
		return fmt.Errorf("adding to the box: %w", err)
	}
	for name, path := range parts {
		if err := os.Remove(b.bin(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("adding %s to the box: %w", name, err)
		}
		if err := os.Symlink(path, b.bin(name)); err != nil {
			return fmt.Errorf("adding %s to the box: %w", name, err)
		}
	}
	return nil
}
