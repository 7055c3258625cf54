package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// unified reports whether the machine has cgroup v2 only.
func unified() bool {
	var fs unix.Statfs_t
	return unix.Statfs(cgroupRoot, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchies returns the mount points of the cgroup file systems: one with v2; with v1 several, and runc uses a v2 one beside them too.
func hierarchies() ([]string, error) {
	if unified() {
		return []string{cgroupRoot}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup") && !slices.Contains(found, fields[4]) {
			found = append(found, fields[4])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("finding cgroups: no cgroup file system is mounted (mount one below /sys/fs/cgroup)")
	}
	return found, nil
}

// controllers returns what a cgroup v2 group passes on to its children; nil with v1.
func controllers(group string) ([]string, error) {
	if !unified() {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(cgroupRoot, group, "cgroup.subtree_control"))
	return strings.Fields(string(data)), err
}

// makeCgroup makes the box's group in every hierarchy, with a group "system" in it for the daemons.
func makeCgroup(name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, name, "system"), 0o755); err != nil {
			return fmt.Errorf("making a cgroup: %w", err)
		}
	}
	if !unified() {
		return nil
	}
	return enableControllers(cgroupRoot, name)
}

// enableControllers passes on to the group below root, and to those in it, the cgroup v2 controllers that the kubelet
// asks for of its root group (see getSupportedUnifiedControllers in its pkg/kubelet/cm): of these, all that the kernel
// has. systemd leaves some of them off, such as hugetlb.
func enableControllers(root, name string) error {
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("asking for the cgroup controllers: %w", err)
	}
	available := strings.Fields(string(data))
	var on []string
	for _, c := range []string{"cpu", "cpuset", "hugetlb", "memory", "pids"} {
		switch {
		case slices.Contains(available, c):
			on = append(on, "+"+c)
		case c != "hugetlb": // which not every kernel has
			return fmt.Errorf("turning on cgroup controller %s: the kernel does not offer it, only %q (in a container, start that with its host's cgroup namespace; else look for cgroup_disable in /proc/cmdline)", c, available)
		}
	}
	for _, group := range []string{"", name} {
		file := filepath.Join(root, group, "cgroup.subtree_control")
		if err := os.WriteFile(file, []byte(strings.Join(on, " ")), 0); err != nil {
			return fmt.Errorf("turning on cgroup controllers %s in %s (in a container, start that with its host's cgroup namespace): %w", on, file, err)
		}
	}
	return nil
}

// joinCgroup moves a process into the group of the daemons. With v1 only into hierarchies that take a process
// without further settings, which cpuset does not.
func joinCgroup(name string, pid int) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if strings.Contains(filepath.Base(root), "cpuset") {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, name, "system", "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("joining cgroup %s: %w", name, err)
		}
	}
	return nil
}

// removeCgroup removes the box's groups and turns off the controllers that were off before. The processes in them are
// dead, but the kernel may still be at it, so it tries for five seconds.
func removeCgroup(name string, before []string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			if err = removeGroups(filepath.Join(root, name)); err == nil {
				break
			}
			if time.Since(start) > 5*time.Second {
				return fmt.Errorf("removing a cgroup: %w", err)
			}
		}
	}
	if before == nil {
		return nil
	}
	now, err := controllers("")
	if err != nil {
		return err
	}
	for _, c := range now {
		if !slices.Contains(before, c) {
			// Something else may have come to use it since; then it stays on.
			_ = os.WriteFile(filepath.Join(cgroupRoot, "cgroup.subtree_control"), []byte("-"+c), 0)
		}
	}
	return nil
}

// removeGroups removes a group and those in it, the deepest first.
func removeGroups(group string) error {
	var dirs []string
	err := filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for _, dir := range slices.Backward(dirs) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	return err
}

// cgroupProcesses returns the PIDs in a group and below it, in any hierarchy.
func cgroupProcesses(name string) ([]int, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil // gone meanwhile, or of no interest
			}
			data, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
}
