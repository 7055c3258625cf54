package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The kubelet sets these for the whole machine. Inside the box plain files lie over them, so that the machine keeps its own.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// enterMounts gives the calling process, the first of its mount namespace, a /run, /var and /proc of its own. All other
// programs then keep their usual paths (/var/lib/kubelet, /run/containerd, …) and the machine's stay as they are.
func enterMounts(b Box) error {
	// The kubelet needs shared propagation inside the box; nothing may propagate out of it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	cache := filepath.Dir(b.dir)
	back, err := os.Open(cache) // it may lie below what is covered next
	if err != nil {
		return err
	}
	defer back.Close()
	for _, m := range []struct{ source, target, kind string }{
		{"tmpfs", "/run", "tmpfs"},
		{b.path("var"), "/var", ""},
		{"proc", "/proc", "proc"},
	} {
		flags := uintptr(unix.MS_BIND)
		if m.kind != "" {
			flags = unix.MS_NOSUID | unix.MS_NODEV
		}
		if err := unix.Mount(m.source, m.target, m.kind, flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	for _, covered := range []string{"/run/", "/var/"} {
		if !strings.HasPrefix(cache, covered) {
			continue
		}
		if err := os.MkdirAll(cache, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", back.Fd()), cache, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting %s once more: %w", cache, err)
		}
	}
	for _, name := range sysctls {
		decoy := b.path("sysctl", strings.ReplaceAll(name, "/", "."))
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return err
		}
		if err := writeFile(decoy, value, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(decoy, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering sysctl %s: %w", name, err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts inside the box: %w", err)
	}
	return nil
}

// makeNetwork gives the box's network namespace an address for the node and a default route that leads nowhere: without
// one the API server finds no address to advertise, and Services cannot be reached from the node.
func makeNetwork() error {
	for _, args := range []string{
		"link set lo up",
		"link add node0 type bridge",
		"address add " + NodeIP + "/24 dev node0",
		"link set node0 up",
		"route add default dev node0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("running ip %s: %w: %s", args, err, strings.TrimSpace(string(out)))
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("turning on forwarding: %w", err)
	}
	return nil
}

// enterNetwork moves the calling thread into the network of the process. The caller has locked the thread, and never
// unlocks it, so that the thread ends with its goroutine.
func enterNetwork(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("opening the box's network: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the box's network: %w", err)
	}
	return nil
}

// dial connects to an IP address and port inside the box from a process that is outside.
func (b Box) dial(ctx context.Context, network, address string) (net.Conn, error) {
	r, err := b.running()
	if err != nil {
		return nil, err
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := enterNetwork(r.Init.PID); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	got := <-done
	return got.conn, got.err
}

// inside returns a command that runs in the box's network, mount and PID namespaces.
func (b Box) inside(ctx context.Context, init processID, name string, args ...string) *exec.Cmd {
	args = append([]string{"-t", fmt.Sprint(init.PID), "-m", "-n", "-p", "--", name}, args...)
	return exec.CommandContext(ctx, "nsenter", args...)
}
