package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// binFolders are where programs are, on the host and in a package.
var binFolders = []string{"usr/bin", "usr/sbin", "bin", "sbin"}

// debEntry finds the unpacked package, whose folder has its version in the name. What is there is used as long as it is
// asked for, so that a run needs no network and a running cluster does not change under its user.
func (b *builder) debEntry(s source) (string, error) {
	folders, err := filepath.Glob(filepath.Join(b.entries(), s.deb+"_*"))
	if err != nil {
		return "", fmt.Errorf("looking for %s in the cache: %w", s.deb, err)
	}
	release := releaseOf(runtime.GOARCH)
	folders = slices.DeleteFunc(folders, func(f string) bool { return !strings.HasSuffix(f, release) })
	if len(folders) == 0 {
		return "", nil
	}
	return folders[len(folders)-1], nil
}

// releaseOf ends an entry's name: a package of one release may need libraries that another lacks.
func releaseOf(arch string) string {
	release := map[string]string{}
	if content, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(content)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			release[key] = strings.Trim(value, `"`)
		}
	}
	return "_" + release["ID"] + release["VERSION_ID"] + "_" + arch
}

// fetchDeb unpacks a package into the cache, with links to its programs at the top of the folder.
func (b *builder) fetchDeb(ctx context.Context, s source) error {
	if err := needApt(s.deb); err != nil {
		return err
	}
	if err := os.MkdirAll(b.entries(), 0o755); err != nil {
		return err
	}
	download, err := os.MkdirTemp(b.entries(), tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(download)
	if err := AptGet(ctx, download, "download", s.deb); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(download, s.deb+"_*.deb"))
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("apt-get download left %d files where one was expected", len(files))
	}
	// The name is PACKAGE_VERSION_ARCHITECTURE.deb, with the epoch's colon escaped.
	fields := strings.Split(strings.TrimSuffix(filepath.Base(files[0]), ".deb"), "_")
	version := strings.ReplaceAll(fields[1], "%3a", "-")
	entry := filepath.Join(b.entries(), s.deb+"_"+version+releaseOf(runtime.GOARCH))
	return b.install(entry, func(temp string) error {
		if err := run(ctx, temp, "dpkg-deb", "-x", files[0], "root"); err != nil {
			return err
		}
		for _, program := range s.programs {
			path, err := find(filepath.Join(temp, "root"), program)
			if err != nil {
				return fmt.Errorf("package %s: %w", s.deb, err)
			}
			if err := ensureLibraries(ctx, path); err != nil {
				return err
			}
			relative, err := filepath.Rel(temp, path)
			if err != nil {
				return err
			}
			if err := os.Symlink(relative, filepath.Join(temp, program)); err != nil {
				return err
			}
		}
		return nil
	})
}

// find returns the path of a program below root.
func find(root, program string) (string, error) {
	for _, folder := range binFolders {
		if path := filepath.Join(root, folder, program); exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s", program, strings.Join(binFolders, ", "))
}

// libraryPackages say which package has a library that a program of ours needs beyond the C library.
var libraryPackages = map[string]string{"libseccomp.so.2": "libseccomp2"}

// ensureLibraries installs the shared libraries that a program needs and the host lacks.
func ensureLibraries(ctx context.Context, program string) error {
	output, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
	if err != nil && bytes.Contains(output, []byte("not a dynamic executable")) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking which libraries %s needs: %w: %s", program, err, bytes.TrimSpace(output))
	}
	for line := range strings.Lines(string(output)) {
		library, ok := strings.CutSuffix(strings.TrimSpace(line), " => not found")
		if !ok {
			continue
		}
		pkg, known := libraryPackages[library]
		if !known {
			return fmt.Errorf("%s needs the library %s, which this host lacks: install it", filepath.Base(program), library)
		}
		if err := aptInstall(ctx, pkg); err != nil {
			return err
		}
	}
	return nil
}

// toolPackages say which package has a tool of the host that a cluster needs.
var toolPackages = map[string]string{
	"nft": "nftables", "conntrack": "conntrack", "ip": "iproute2",
	"nsenter": "util-linux", "mount": "mount", "umount": "mount",
}

// hostTools installs what is missing: these are plain commands, which start nothing.
func (b *builder) hostTools(ctx context.Context) error {
	var packages, tools []string
	for tool, pkg := range toolPackages {
		if _, err := find("/", tool); err == nil {
			continue
		}
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		tools, packages = append(tools, tool), append(packages, pkg)
	}
	if len(tools) == 0 {
		return nil
	}
	slices.Sort(tools)
	slices.Sort(packages)
	stop := b.report("installing " + strings.Join(tools, ", "))
	defer stop()
	return aptInstall(ctx, slices.Compact(packages)...)
}

func aptInstall(ctx context.Context, packages ...string) error {
	list := strings.Join(packages, " ")
	if err := needApt(list); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("the packages %s are missing and installing them needs root: sudo apt-get install --no-install-recommends %[1]s", list)
	}
	return AptGet(ctx, "/", append([]string{"install", "-y", "--no-remove", "--no-install-recommends"}, packages...)...)
}

func needApt(packages string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s comes from a package and apt-get is not here: use Debian 12, Ubuntu 22.04 or newer", packages)
	}
	return nil
}

// AptGet runs apt-get in dir, and once more with new package lists if it fails: they may be missing, or name a version that the
// archive has replaced. What it printed is part of the error.
func AptGet(ctx context.Context, dir string, args ...string) error {
	args = append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)
	err := run(ctx, dir, "apt-get", args...)
	if err == nil || ctx.Err() != nil || os.Geteuid() != 0 {
		return err
	}
	if updateErr := run(ctx, dir, "apt-get", "-q", "update"); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	return run(ctx, dir, "apt-get", args...)
}

// run runs a command in dir. What it printed is part of the error.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(output))
	}
	return nil
}
