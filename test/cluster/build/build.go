// Package build provides the programs that a cluster of the tests is made of.
//
// What is written in Go is compiled from pinned modules, each part from a go.mod of its own below test/cluster/parts.
// What is not (containerd, runc, busybox) is unpacked from packages of Debian or Ubuntu without being installed, so that
// no service starts on the host. Everything is kept in a cache under a name that changes with what went in: a second run
// takes no time and needs no network, and a path that was handed out always has the same content.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say where things are. Root is the checkout and required.
type Options struct {
	Root  string
	Cache string    // folder; the user's cache folder by default, see DefaultCache
	Log   io.Writer // progress, a line at a time, at least every 20 s while something is built; nil is silence
	Want  []string  // names of programs; empty is all that a cluster needs, which is every one but vault-full and cert-manager
}

// Parts maps the name of a program to its absolute path.
type Parts map[string]string

// Ensure returns the wanted programs, and those that come with them, after building or fetching what is not in the cache.
// Where the kubelet is wanted it also installs the host's tools that a cluster needs and the host lacks, and for that alone
// it needs root. Two runs at once build once. The error of a build has what the compiler printed.
func Ensure(ctx context.Context, o Options) (Parts, error) {
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	if len(o.Want) == 0 || slices.Contains(o.Want, "kubelet") {
		if err := b.hostTools(ctx); err != nil {
			return nil, err
		}
	}
	return b.ensure(ctx, sources, o.Want)
}

// DefaultCache is latchkey/ in the user's cache folder, also where HOME is not set.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err == nil {
		return filepath.Join(dir, "latchkey"), nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("looking for the user's cache folder: %w", err)
	}
	return filepath.Join(u.HomeDir, ".cache", "latchkey"), nil
}

// source is where one or more programs come from together.
type source struct {
	name     string
	programs []string
	onDemand bool

	dir      string   // of a Go module, below the checkout
	packages []string // to build in that module: one for each program
	version  string   // of a module required there, stamped into the programs where set
	files    folder   // copied beside the programs

	deb string // or the name of a Debian package
}

// folder is one of a module's source, for what a program needs and does not embed. The copy has its base name.
type folder struct{ module, path string }

// sources are built in this order: what takes longest to be of use comes first.
var sources = []source{
	{name: "kubernetes", dir: parts("kubernetes"), version: "k8s.io/kubernetes",
		programs: []string{"kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"},
		packages: prefixed("k8s.io/kubernetes/cmd/", "kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl")},
	{name: "etcd", dir: parts("etcd"), programs: []string{"etcd"}, packages: []string{"go.etcd.io/etcd/server/v3"}},
	{name: "cni", dir: parts("cni"), programs: []string{"host-local", "loopback", "portmap", "ptp"},
		packages: prefixed("github.com/containernetworking/plugins/plugins/", "ipam/host-local", "main/loopback", "meta/portmap", "main/ptp")},
	{name: "vault", dir: parts("vault"), programs: []string{"vault"}, packages: []string{"."}},
	{name: "coredns", dir: parts("coredns"), programs: []string{"coredns"}, packages: []string{"."}},
	{name: "pause", dir: parts("pause"), programs: []string{"pause"}, packages: []string{"."}},
	{name: "images", dir: "tools", programs: []string{"images"}, packages: []string{"./images"}},
	{name: "helm", dir: parts("helm"), programs: []string{"helm"}, packages: []string{"helm.sh/helm/v4/cmd/helm"}},
	{name: "cert-manager", dir: parts("cert-manager"), programs: []string{"cert-manager"}, packages: []string{"."}, onDemand: true,
		files: folder{module: "github.com/cert-manager/cert-manager", path: "deploy/crds"}},
	{name: "vault-full", dir: parts("vault-full"), programs: []string{"vault-full"}, packages: []string{"github.com/hashicorp/vault"}, onDemand: true},
	{name: "containerd", deb: "containerd", programs: []string{"containerd", "containerd-shim-runc-v2", "ctr"}},
	{name: "runc", deb: "runc", programs: []string{"runc"}},
	{name: "busybox", deb: "busybox-static", programs: []string{"busybox"}},
}

func parts(name string) string { return filepath.Join("test", "cluster", "parts", name) }

func prefixed(prefix string, names ...string) []string {
	packages := make([]string, len(names))
	for i, name := range names {
		packages[i] = prefix + name
	}
	return packages
}

// builder is one run of Ensure.
type builder struct {
	root, cache string
	log         io.Writer
	progress    time.Duration // between two lines about the same work
}

func newBuilder(o Options) (*builder, error) {
	b := &builder{log: o.Log, progress: 20 * time.Second}
	if b.log == nil {
		b.log = io.Discard
	}
	if o.Root == "" {
		return nil, errors.New("the checkout's folder is not given")
	}
	var err error
	if b.root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("finding the checkout: %w", err)
	}
	if o.Cache == "" {
		if o.Cache, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	if b.cache, err = filepath.Abs(o.Cache); err != nil {
		return nil, fmt.Errorf("finding the cache: %w", err)
	}
	return b, nil
}

// ensure returns the wanted programs of the table, after making what is missing.
func (b *builder) ensure(ctx context.Context, table []source, want []string) (Parts, error) {
	chosen, err := choose(table, want)
	if err != nil {
		return nil, err
	}
	found, missing, err := b.lookUp(ctx, chosen)
	if err != nil || len(missing) == 0 {
		return found, err
	}

	unlock, err := b.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, missing, err = b.lookUp(ctx, chosen); err != nil { // another run may have made it
		return nil, err
	}
	start := time.Now()
	for i, s := range missing {
		if err := b.make(ctx, s, fmt.Sprintf("%d of %d", i+1, len(missing))); err != nil {
			return nil, err
		}
	}
	if len(missing) > 0 {
		b.say("built what the cluster is made of in %s", time.Since(start).Round(time.Second))
	}
	found, missing, err = b.lookUp(ctx, chosen)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("building %s: its inputs changed meanwhile: run it again", missing[0].name)
	}
	return found, b.prune()
}

// choose returns the sources of the wanted programs.
func choose(table []source, want []string) ([]source, error) {
	var chosen []source
	known := map[string]bool{}
	for _, s := range table {
		wanted := len(want) == 0 && !s.onDemand
		for _, program := range s.programs {
			known[program] = true
			wanted = wanted || slices.Contains(want, program)
		}
		if wanted {
			chosen = append(chosen, s)
		}
	}
	for _, name := range want {
		if !known[name] {
			names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			return nil, fmt.Errorf("no part of the cluster is called %q (there are %s)", name, names)
		}
	}
	return chosen, nil
}

// lookUp sorts the sources into what the cache has and what has to be made.
func (b *builder) lookUp(ctx context.Context, chosen []source) (Parts, []source, error) {
	found := Parts{}
	var missing []source
	for _, s := range chosen {
		dir, err := b.entryOf(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		if dir == "" || !exists(dir) {
			missing = append(missing, s)
			continue
		}
		if err := touch(dir); err != nil {
			return nil, nil, err
		}
		for _, program := range s.programs {
			found[program] = filepath.Join(dir, program)
		}
	}
	return found, missing, nil
}

// entryOf returns the folder of the cache that holds a source's programs, or will; empty if only making it will tell.
func (b *builder) entryOf(ctx context.Context, s source) (string, error) {
	if s.deb != "" {
		return b.debEntry(s)
	}
	return b.goEntry(ctx, s)
}

func (b *builder) make(ctx context.Context, s source, position string) error {
	verb, work := "building", b.goBuild
	if s.deb != "" {
		verb, work = "fetching", b.fetchDeb
	}
	stop := b.report(fmt.Sprintf("%s %s (%s)", verb, s.name, position))
	defer stop()
	if err := work(ctx, s); err != nil {
		return fmt.Errorf("%s %s: %w", verb, s.name, err)
	}
	return nil
}
