package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
)

// writePKI makes the box's authority, every certificate the cluster needs, and the kubeconfigs that hold them.
func (b Box) writePKI() error {
	ca, err := newAuthority()
	if err != nil {
		return fmt.Errorf("making the box's CA: %w", err)
	}
	if err := os.MkdirAll(b.path("pki"), 0o755); err != nil {
		return err
	}
	if err := ca.writeTo(b.path("ca.crt"), b.path("ca.key")); err != nil {
		return err
	}
	pairs := []struct {
		file  string
		issue func() (cert, key []byte, err error)
	}{
		{"apiserver", func() ([]byte, []byte, error) {
			return ca.serving("kubernetes.default.svc", "kubernetes", "kubernetes.default",
				"kubernetes.default.svc."+Domain, "localhost", apiServerIP, NodeIP, "127.0.0.1")
		}},
		{"apiserver-kubelet-client", func() ([]byte, []byte, error) { return ca.client("kube-apiserver-kubelet-client", "system:masters") }},
		{"kubelet", func() ([]byte, []byte, error) { return ca.serving(NodeName, NodeIP, "127.0.0.1") }},
	}
	for _, pair := range pairs {
		cert, key, err := pair.issue()
		if err != nil {
			return err
		}
		if err := writeFile(b.path("pki", pair.file+".crt"), cert, 0o644); err != nil {
			return err
		}
		if err := writeFile(b.path("pki", pair.file+".key"), key, 0o600); err != nil {
			return err
		}
	}
	for _, user := range []struct{ file, name, group string }{
		{"admin", "admin", "system:masters"},
		{"kubelet", "system:node:" + NodeName, "system:nodes"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	} {
		cert, key, err := ca.client(user.name, user.group)
		if err != nil {
			return err
		}
		if err := b.writeKubeconfig(user.file, ca.pem(), cert, key); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := encodePublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writeFile(b.path("pki", "service-account.key"), private, 0o600); err != nil {
		return err
	}
	return writeFile(b.path("pki", "service-account.pub"), public, 0o644)
}

func (b Box) writeKubeconfig(name string, ca, cert, key []byte) error {
	encode := base64.StdEncoding.EncodeToString
	return writeFile(b.path(name+".kubeconfig"), fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: latchkey-box
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: latchkey-box
  context: {cluster: latchkey-box, user: %[3]s}
current-context: latchkey-box
`, apiServerURL, encode(ca), name, encode(cert), encode(key)), 0o600)
}

// volumePlugins is empty. The kubelet makes it, by default in the machine's /usr/libexec.
const volumePlugins = "/var/lib/kubelet/volume-plugins"

// writeSettings writes the configuration files of the daemons.
func (b Box) writeSettings() error {
	none := []any{}
	kubelet := map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "x509": map[string]any{"clientCAFile": b.path("ca.crt")}},
		"tlsCertFile":              b.path("pki", "kubelet.crt"),
		"tlsPrivateKeyFile":        b.path("pki", "kubelet.key"),
		"containerRuntimeEndpoint": "unix://" + containerdSock,
		"clusterDNS":               []string{DNSIP},
		"clusterDomain":            Domain,
		"resolvConf":               b.path("etc", "resolv.conf"),
		"volumePluginDir":          volumePlugins,
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + b.cgroup(),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"enforceNodeAllocatable":   none,
		"oomScoreAdj":              0, // less needs CAP_SYS_RESOURCE
		"containerLogMaxSize":      "100Mi",
		// A full disk or little memory on the developer's machine is no reason to refuse pods or to delete images that
		// no registry can give back.
		"imageGCHighThresholdPercent": 100,
		"evictionHard": map[string]string{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%",
		},
	}
	kubeProxy := map[string]any{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"clientConnection": map[string]any{"kubeconfig": b.path("kube-proxy.kubeconfig")},
		"clusterCIDR":      podSubnet,
		"conntrack":        map[string]any{"maxPerCore": 0, "min": 0}, // the machine's, not the box's
		"hostnameOverride": NodeName,
		"oomScoreAdj":      0,
	}
	cni := map[string]any{
		"cniVersion": "1.0.0",
		"name":       "box",
		"plugins": []any{
			// Routed, not bridged: across a bridge, the answer of a pod behind a Service would pass the node by, unless a
			// module is loaded that changes every bridge of the machine.
			map[string]any{
				"type": "ptp",
				"ipam": map[string]any{
					"type":   "host-local",
					"ranges": []any{[]any{map[string]any{"subnet": podSubnet}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "backend": "nftables", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	for file, content := range map[string]any{"kubelet.json": kubelet, "kube-proxy.json": kubeProxy, "cni/box.conflist": cni} {
		data, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return err
		}
		if err := writeFile(b.path("etc", file), data, 0o644); err != nil {
			return err
		}
	}
	if err := writeFile(b.path("etc", "resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	return writeFile(b.path("etc", "containerd.toml"), fmt.Appendf(nil, `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = %q

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true # else runc dies where CAP_SYS_RESOURCE is missing
disable_apparmor = true       # else a profile is left in the kernel

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = %q
`, containerdSock, pauseImage, b.path("bin"), b.path("etc", "cni"), b.bin("runc")), 0o644)
}

// daemons returns the commands of the cluster: what is to run first, and what needs the API server.
func (b Box) daemons() (first, second []Command) {
	pki := func(name string) string { return b.path("pki", name) }
	first = []Command{
		{Name: "etcd", Args: []string{
			"--name=box", "--data-dir=/var/lib/etcd", "--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=box=http://127.0.0.1:2380",
			"--unsafe-no-fsync", // survives a kill of the process, which is all a box promises
		}},
		{Name: "containerd", Args: []string{"--config", b.path("etc", "containerd.toml")}},
		{Name: "kube-apiserver", Args: []string{
			"--etcd-servers=" + etcdURL, "--advertise-address=" + NodeIP, "--allow-privileged",
			"--authorization-mode=Node,RBAC", "--service-cluster-ip-range=" + serviceSubnet,
			"--service-account-issuer=https://kubernetes.default.svc." + Domain,
			"--service-account-signing-key-file=" + pki("service-account.key"), "--service-account-key-file=" + pki("service-account.pub"),
			"--client-ca-file=" + b.path("ca.crt"), "--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--kubelet-certificate-authority=" + b.path("ca.crt"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP", // else `kubectl logs` asks DNS for the node
			"--enable-admission-plugins=NodeRestriction",   // added to the defaults
		}},
	}
	second = []Command{
		{Name: "kube-controller-manager", Args: []string{
			"--kubeconfig=" + b.path("kube-controller-manager.kubeconfig"), "--use-service-account-credentials", "--leader-elect=false",
			"--service-account-private-key-file=" + pki("service-account.key"), "--root-ca-file=" + b.path("ca.crt"),
			"--cluster-signing-cert-file=" + b.path("ca.crt"), "--cluster-signing-key-file=" + b.path("ca.key"),
			"--flex-volume-plugin-dir=" + volumePlugins,
		}},
		{Name: "kube-scheduler", Args: []string{"--kubeconfig=" + b.path("kube-scheduler.kubeconfig"), "--leader-elect=false"}},
		{Name: "kube-proxy", Args: []string{"--config=" + b.path("etc", "kube-proxy.json")}},
		{Name: "kubelet", Args: []string{
			"--config=" + b.path("etc", "kubelet.json"), "--kubeconfig=" + b.path("kubelet.kubeconfig"),
			"--node-ip=" + NodeIP, "--hostname-override=" + NodeName,
		}},
	}
	env := []string{"PATH=" + b.path("bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	for _, list := range [][]Command{first, second} {
		for i := range list {
			list[i].Path, list[i].Env = b.bin(list[i].Name), env
		}
	}
	return first, second
}
