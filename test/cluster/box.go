package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

// Addresses inside the box. They are private to its network namespace, so they may be in use outside.
const (
	NodeName = "latchkey"
	NodeIP   = "10.99.0.1"
	DNSIP    = "10.96.0.10"
	VaultIP  = "10.96.0.20"
	Domain   = "cluster.local"

	apiServerIP    = "10.96.0.1"
	serviceSubnet  = "10.96.0.0/16"
	podSubnet      = "10.244.0.0/16"
	apiServerURL   = "https://" + NodeIP + ":6443"
	etcdURL        = "http://127.0.0.1:2379"
	containerdSock = "/run/containerd/containerd.sock" // inside the box's mount namespace
)

// Environment variables that `cluster exec` sets for the command it runs.
const (
	EnvKubeconfig = "LATCHKEY_TEST_KUBECONFIG"
	EnvState      = "LATCHKEY_BOX_STATE"
)

// A Box is the folder in which one cluster lives. It holds all that the cluster writes; `down` removes it.
type Box struct{ dir string }

// DefaultBox returns the box of this user: there is one, however many checkouts there are.
func DefaultBox() (Box, error) {
	if dir := os.Getenv(EnvState); dir != "" {
		// What `down` removes has to be a box.
		if _, err := os.Stat(Box{dir}.path("box.json")); err != nil {
			return Box{}, fmt.Errorf("%s names no box: %w (unset it: it is for the commands of `cluster exec`)", EnvState, err)
		}
		return Box{dir}, nil
	}
	cache, err := build.DefaultCache()
	if err != nil {
		return Box{}, err
	}
	// The kernel limits the path of a unix socket to 107 bytes.
	if b := (Box{filepath.Join(cache, "box")}); len(b.controlSocket()) <= 107 {
		return b, nil
	}
	return Box{}, fmt.Errorf("using cache folder %q: its path is too long for a unix socket (set XDG_CACHE_HOME to a shorter one)", cache)
}

// Dir returns the state folder.
func (b Box) Dir() string { return b.dir }

// Kubeconfig returns the path of the administrator's kubeconfig. Its address is reachable inside the box's network only.
func (b Box) Kubeconfig() string { return b.path("admin.kubeconfig") }

// kubeCache is where kubectl keeps what the API server told of itself.
func (b Box) kubeCache() string { return b.path("kube-cache") }

func (b Box) path(elem ...string) string { return filepath.Join(append([]string{b.dir}, elem...)...) }

func (b Box) bin(name string) string { return b.path("bin", name) }

func (b Box) log(name string) string { return b.path("log", name+".log") }

func (b Box) controlSocket() string { return b.path("init.sock") }

// cgroup names the control group that holds all of the box, by its folder, so that the boxes of two users do not meet.
func (b Box) cgroup() string {
	sum := sha256.Sum256([]byte(b.dir))
	return "latchkey-" + hex.EncodeToString(sum[:4])
}
