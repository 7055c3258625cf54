package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	pauseImage = "docker.io/library/pause:box"
	// BusyboxImage is for the pods of tests and demos: a shell and the usual commands.
	BusyboxImage = "docker.io/library/busybox:box"

	vaultUser = 65532
)

// An image is made of parts of the box, for the box.
type image struct {
	name string
	args []string // further arguments of the image tool; @NAME stands for the path of a part, %NAME for a small file
}

// smallFiles are for busybox: without the first, its C library asks DNS before /etc/hosts. (Its wget crashes when it is
// given -T: use timeout.)
var smallFiles = map[string]string{
	"nsswitch.conf": "hosts: files dns\n",
	"passwd":        "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/tmp:/bin/sh\n",
	"group":         "root:x:0:\nnonroot:x:65532:\n",
}

var boxImages = []image{
	{pauseImage, []string{"-entrypoint", "/pause", "-user", "65532:65532", "@pause=/pause"}},
	{BusyboxImage, append([]string{"-entrypoint", "/bin/sh", "@busybox=/bin/busybox", "=/tmp/:1777", "%nsswitch.conf=/etc/nsswitch.conf", "%passwd=/etc/passwd", "%group=/etc/group"}, applets()...)},
	{"docker.io/library/coredns:box", []string{"-entrypoint", "/coredns", "-user", "65532:65532", "@coredns=/coredns"}},
	{"docker.io/library/vault:box", []string{"-entrypoint", "/bin/vault", "-user", "65532:65532", "@vault=/bin/vault"}},
}

// applets returns the links that give busybox its commands.
func applets() []string {
	names := "[ awk base64 basename cat chmod cmp cp cut date dd df diff dirname du echo env expr false find free grep " +
		"gunzip gzip head hexdump hostname httpd id ip kill killall ln ls md5sum mkdir mkfifo mknod mktemp mount mv nc nslookup od " +
		"ping printenv printf ps pwd readlink realpath rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar tee " +
		"test time timeout top touch tr true tty umount uname uniq uptime usleep vi watch wc wget which whoami xargs yes"
	var links []string
	for _, name := range strings.Fields(names) {
		links = append(links, "->busybox=/bin/"+name)
	}
	return links
}

// loadImages builds what is not in the cache and imports all of it into the box's containerd.
func (s *startup) loadImages(ctx context.Context) error {
	var files []string
	for _, img := range boxImages {
		file, err := s.imageFile(ctx, img)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	if err := s.wait(ctx, "containerd", patience, func(ctx context.Context) error {
		return s.ctr(ctx, nil, "version")
	}); err != nil {
		return err
	}
	for _, file := range files {
		if err := s.importImage(ctx, file); err != nil {
			return err
		}
	}
	s.say("%d images loaded", len(files))
	return nil
}

// imageFile returns the image's tarball in the cache, which is named by what went into it.
func (s *startup) imageFile(ctx context.Context, img image) (string, error) {
	args := []string{"-name", img.name, "-arch", runtime.GOARCH, "-level", "0"}
	key := s.parts["images"]
	for _, arg := range img.args {
		source, dest, _ := strings.Cut(arg, "=")
		switch name := strings.TrimLeft(source, "@%"); {
		case strings.HasPrefix(source, "@"):
			arg = s.parts[name] + "=" + dest
		case strings.HasPrefix(source, "%"):
			arg = s.path("etc", name) + "=" + dest
			if err := writeFile(s.path("etc", name), []byte(smallFiles[name]), 0o644); err != nil {
				return "", err
			}
			key += smallFiles[name]
		}
		args = append(args, arg)
	}
	sum := sha256.Sum256([]byte(key + "\n" + strings.Join(args, "\n")))
	short, _, _ := strings.Cut(filepath.Base(img.name), ":")
	folder := filepath.Join(filepath.Dir(s.dir), "images")
	file := filepath.Join(folder, short+"-"+hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	old, err := filepath.Glob(filepath.Join(folder, short+"-*"))
	if err != nil {
		return "", err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	s.say("making image %s", short)
	cmd := exec.CommandContext(ctx, s.parts["images"], append([]string{"-o", file + ".new"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("making image %s: %w: %s", img.name, err, bytes.TrimSpace(out))
	}
	return file, os.Rename(file+".new", file)
}

// Load imports an image tarball, as `docker save` or the image tool writes it.
func (b Box) Load(ctx context.Context, file string) error {
	if err := b.importImage(ctx, file); err != nil {
		return fmt.Errorf("loading %s: %w", file, err)
	}
	return nil
}

func (b Box) importImage(ctx context.Context, file string) error {
	f, err := os.Open(file) // by descriptor: the path may not exist in the box's mount namespace
	if err != nil {
		return err
	}
	defer f.Close()
	return b.ctr(ctx, f, "images", "import", "-")
}

// ctr runs containerd's client in the namespace of images and containers that the kubelet uses.
func (b Box) ctr(ctx context.Context, stdin io.Reader, args ...string) error {
	r, err := b.running()
	if err != nil {
		return err
	}
	cmd := b.inside(ctx, r.Init, b.bin("ctr"), append([]string{"-a", containerdSock, "-n", "k8s.io"}, args...)...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running ctr %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
