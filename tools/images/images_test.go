package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// archive is what a test reads back: the image's files, without the library that wrote them.
type archive struct {
	digest string
	files  map[string][]byte
	config struct {
		OS, Architecture string
		Created          time.Time
		Config           struct {
			User       string
			Entrypoint []string
			Labels     map[string]string
		}
	}
	index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
			Platform    struct{ OS, Architecture string }
		}
	}
	layer []*tar.Header
}

func build(t *testing.T, args ...string) archive {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	var stdout, stderr bytes.Buffer
	if err := run(append([]string{"-o", file}, args...), &stdout, &stderr); err != nil {
		t.Fatalf("images %q: %v\n%s", args, err, &stderr)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := archive{files: map[string][]byte{}, digest: strings.Fields(stdout.String())[1]}
	for reader := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if a.files[header.Name], err = io.ReadAll(reader); err != nil {
			t.Fatal(err)
		}
	}
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	a.decode(t, "manifest.json", &manifest)
	a.decode(t, manifest[0].Config, &a.config)
	a.decode(t, "index.json", &a.index)
	zipped, err := gzip.NewReader(bytes.NewReader(a.files[manifest[0].Layers[0]]))
	if err != nil {
		t.Fatal(err)
	}
	for reader := tar.NewReader(zipped); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return a
		}
		if err != nil {
			t.Fatal(err)
		}
		a.layer = append(a.layer, header)
	}
}

func (a archive) decode(t *testing.T, name string, value any) {
	t.Helper()
	if err := json.Unmarshal(a.files[name], value); err != nil {
		t.Fatalf("reading %s of the archive: %v", name, err)
	}
}

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSameInputsGiveTheSameDigest(t *testing.T) {
	var digests []string
	for _, mode := range []os.FileMode{0o755, 0o700} { // two builders with different umasks
		agent := write(t, "agent", "program", mode)
		passwd := write(t, "passwd", "root:x:0:0::/:", mode&0o666)
		if err := os.Chtimes(agent, time.Time{}, time.Now().Add(-time.Duration(mode)*time.Hour)); err != nil {
			t.Fatal(err)
		}
		args := []string{"-name", "latchkey-agent:1.0.0", "-label", "b=2", "-label", "a=1", agent + "=/agent", passwd + "=/etc/passwd"}
		digests = append(digests, build(t, args...).digest)
	}
	if digests[0] != digests[1] || !strings.HasPrefix(digests[0], "sha256:") {
		t.Errorf("digests %q: want two equal sha256 digests", digests)
	}
	if other := build(t, "-name", "latchkey-agent:1.0.0", write(t, "agent", "changed", 0o755)+"=/agent").digest; other == digests[0] {
		t.Errorf("another program has the same digest %s", other)
	}
}

func TestConfiguration(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	a := build(t, "-name", "latchkey-agent:1.0.0", "-arch", "arm64", "-entrypoint", "/agent --once", "-user", "65532:65532",
		"-label", "org.opencontainers.image.licenses=Apache-2.0", write(t, "agent", "program", 0o755)+"=/agent")

	if got := a.config.OS + "/" + a.config.Architecture; got != "linux/arm64" {
		t.Errorf("platform %s, want linux/arm64", got)
	}
	if got := a.config.Created.UTC().Format(time.RFC3339); got != "2023-11-14T22:13:20Z" {
		t.Errorf("created %s, want 2023-11-14T22:13:20Z", got)
	}
	if a.config.Config.User != "65532:65532" {
		t.Errorf("user %q, want 65532:65532", a.config.Config.User)
	}
	if got := strings.Join(a.config.Config.Entrypoint, "|"); got != "/agent|--once" {
		t.Errorf("entrypoint %q, want /agent|--once", got)
	}
	for key, want := range map[string]string{
		"org.opencontainers.image.title":    "latchkey-agent",
		"org.opencontainers.image.version":  "1.0.0",
		"org.opencontainers.image.licenses": "Apache-2.0",
	} {
		if got := a.config.Config.Labels[key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	manifest := a.index.Manifests[0]
	if manifest.Digest != a.digest {
		t.Errorf("printed digest %s, but the index has %s", a.digest, manifest.Digest)
	}
	if got := manifest.Annotations["io.containerd.image.name"]; got != "docker.io/library/latchkey-agent:1.0.0" {
		t.Errorf("containerd would name the image %q", got)
	}
	if _, ok := a.files["blobs/sha256/"+strings.TrimPrefix(a.digest, "sha256:")]; !ok {
		t.Errorf("the manifest %s is not in the archive", a.digest)
	}
}

func TestLayer(t *testing.T) {
	busybox := write(t, "busybox", "program", 0o755)
	passwd := write(t, "passwd", "root:x:0:0::/:", 0o600)
	a := build(t, "-name", "busybox:box", busybox+"=/bin/busybox", "->busybox=/bin/sh", passwd+"=etc/passwd",
		"=/tmp/:1777", passwd+"=/secret:0400", "=/srv/")

	var got strings.Builder
	for _, h := range a.layer {
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: uid %d, gid %d, time %s: want root's, at 0", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		line := []string{string(h.Typeflag), h.FileInfo().Mode().String(), h.Name}
		if h.Linkname != "" {
			line = append(line, "->", h.Linkname)
		}
		got.WriteString(strings.Join(line, " ") + "\n")
	}
	want := `5 drwxr-xr-x bin/
0 -rwxr-xr-x bin/busybox
2 Lrwxrwxrwx bin/sh -> busybox
5 drwxr-xr-x etc/
0 -rw-r--r-- etc/passwd
0 -r-------- secret
5 drwxr-xr-x srv/
5 dtrwxrwxrwx tmp/
`
	if got.String() != want {
		t.Errorf("layer:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestRefusals(t *testing.T) {
	file := write(t, "agent", "program", 0o755)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	machineOther := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no files":         {[]string{"-name", "a:1"}, "nothing to put into the image: give SRC=DEST"},
		"no tag":           {[]string{"-name", "localhost:5000/a", file + "=/a"}, `-name "localhost:5000/a": want name:tag`},
		"architecture":     {[]string{"-name", "a:1", "-arch", "s390x", file + "=/a"}, `-arch "s390x" is unknown: use amd64 or arm64`},
		"foreign binary":   {[]string{"-name", "a:1", "-arch", machineOther, self + "=/a"}, "build it with GOARCH=" + machineOther},
		"missing source":   {[]string{"-name", "a:1", "/nowhere=/a"}, "stat /nowhere: no such file or directory"},
		"twice":            {[]string{"-name", "a:1", file + "=/a", file + "=a"}, "/a is given twice"},
		"mode":             {[]string{"-name", "a:1", file + "=/a:99"}, `mode "99": want octal digits up to 7777`},
		"below a file":     {[]string{"-name", "a:1", file + "=/a", file + "=/a/b"}, "/a is a file and cannot hold /a/b"},
		"entrypoint":       {[]string{"-name", "a:1", "-entrypoint", "/b", file + "=/a"}, "-entrypoint /b is not in the image: add SRC=/b"},
		"label":            {[]string{"-name", "a:1", "-label", "x", file + "=/a"}, "want key=value"},
		"link with a mode": {[]string{"-name", "a:1", "--", "->a=/b:0777"}, "a link has no mode"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image.tar")
			err := run(append([]string{"-o", out}, test.args...), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("an archive was written all the same")
			}
		})
	}
}

func TestFullName(t *testing.T) {
	for name, want := range map[string]string{
		"busybox:box":            "docker.io/library/busybox:box",
		"latchkey/agent:1":       "docker.io/latchkey/agent:1",
		"localhost:5000/agent:1": "localhost:5000/agent:1",
		"ghcr.io/latchkey/a:1":   "ghcr.io/latchkey/a:1",
	} {
		if got := fullName(name); got != want {
			t.Errorf("fullName(%q) = %q, want %q", name, got, want)
		}
	}
}
