package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

func file(p, content string, mode fs.FileMode) File {
	return File{Path: p, Mode: mode, Content: sealed.Of([]byte(content))}
}

func open(t *testing.T, dir string) *Volume {
	t.Helper()
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, v *Volume, files ...File) []string {
	t.Helper()
	changed, err := v.Publish(files)
	must(t, err)
	slices.Sort(changed)
	return changed
}

// read is what an app sees below dir: path → "mode content".
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	var walk func(string)
	walk = func(p string) {
		entries, err := os.ReadDir(filepath.Join(dir, p))
		must(t, err)
		for _, e := range entries {
			name := filepath.Join(p, e.Name())
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, name))
			switch {
			case errors.Is(err, fs.ErrNotExist): // a link that leads nowhere is no file
			case err != nil:
				t.Fatal(err)
			case info.IsDir():
				walk(name)
			default:
				b, err := os.ReadFile(filepath.Join(dir, name))
				must(t, err)
				seen[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), b)
			}
		}
	}
	walk("")
	return seen
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	info, err := os.Stat(name)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestPublish(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	v := open(t, dir)
	must(t, v.Guard())
	must(t, v.Guard()) // the hook and the agent both make it
	if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the closed gate leads somewhere: %v", err)
	}
	must(t, v.Prepare())
	if v.GateOpen() || v.currentSet() != "" {
		t.Error("a fresh volume is open or not empty")
	}
	if got := publish(t, v, file("a", "1", 0o400), file("tls/x/b", "2", 0o444), file("tls/c", "3", 0o640)); len(got) != 3 {
		t.Errorf("changed %v", got)
	}
	if v.GateOpen() {
		t.Error("the gate opens by itself")
	}
	must(t, v.OpenGate())
	mounted := filepath.Join(dir, "out")
	if got, want := read(t, mounted), map[string]string{"a": "400 1", "tls/x/b": "444 2", "tls/c": "640 3"}; !maps.Equal(got, want) {
		t.Errorf("app sees %v, want %v", got, want)
	}
	for p, want := range map[string]fs.FileMode{"private": 0o700, "files": 0o755, "files/..data/": 0o755, "files/tls": 0o755, "files/tls/x": 0o755} {
		info, err := os.Stat(filepath.Join(dir, p))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", p, info.Mode().Perm(), want)
		}
	}

	// A change swaps all, and leaves alone what stays.
	filesInode, aInode := inode(t, mounted), inode(t, mounted+"/a")
	if got := publish(t, v, file("a", "1", 0o400), file("tls/x/b", "2!", 0o444), File{Path: "tls/c", Keep: true}); !slices.Equal(got, []string{"tls/x/b"}) {
		t.Errorf("changed %v", got)
	}
	if got, want := read(t, mounted), map[string]string{"a": "400 1", "tls/x/b": "444 2!", "tls/c": "640 3"}; !maps.Equal(got, want) {
		t.Errorf("app sees %v, want %v", got, want)
	}
	if inode(t, mounted) != filesInode {
		t.Error("the mounted directory was replaced")
	}
	if inode(t, mounted+"/a") != aInode {
		t.Error("an unchanged file was touched")
	}

	// No change, no write; a changed mode is a change.
	set := v.currentSet()
	v.step = func(change string) { t.Errorf("wrote although nothing changed: %s", change) }
	publish(t, v, file("a", "1", 0o400), file("tls/x/b", "2!", 0o444), file("tls/c", "3", 0o640))
	v.step = nil
	if v.currentSet() != set {
		t.Error("a new set although nothing changed")
	}
	if got := publish(t, v, file("a", "1", 0o440), file("tls/x/b", "2!", 0o444)); !slices.Equal(got, []string{"a", "tls/c"}) {
		t.Errorf("changed %v", got)
	}
	if got, want := read(t, mounted), map[string]string{"a": "440 1", "tls/x/b": "444 2!"}; !maps.Equal(got, want) {
		t.Errorf("app sees %v, want %v", got, want)
	}
	names, err := v.entries("files")
	must(t, err)
	if len(names) != 4 { // ..data, its set, a, tls
		t.Errorf("left over in files: %v", names)
	}
}

// fsGroup works through the set-group-ID bit of the volume's directories.
func TestSetgidIsKept(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777|fs.ModeSetgid))
	v := open(t, dir)
	must(t, v.Prepare())
	publish(t, v, file("tls/a", "1", 0o440))
	for _, p := range []string{"files", "files/..data/", "files/tls"} {
		info, err := os.Stat(filepath.Join(dir, p))
		must(t, err)
		if info.Mode()&fs.ModeSetgid == 0 {
			t.Errorf("%s lost the set-group-ID bit: %s", p, info.Mode())
		}
	}
}

func TestGuardRefusesDirectory(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "out"), 0o755))
	if err := open(t, dir).Guard(); err == nil || !strings.Contains(err.Error(), "delete the pod") {
		t.Errorf("got %v", err)
	}
}

func TestFailedPublicationKeepsOldSet(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	must(t, v.Prepare())
	publish(t, v, file("a", "1", 0o400))
	// A name that is too long fails while the set is being filled.
	if _, err := v.Publish([]File{file("a", "2", 0o400), file(strings.Repeat("x", 300), "", 0o400)}); err == nil {
		t.Fatal("no error")
	}
	if got := read(t, filepath.Join(dir, "files")); !maps.Equal(got, map[string]string{"a": "400 1"}) {
		t.Errorf("app sees %v", got)
	}
	if names, _ := v.entries("files"); len(names) != 3 {
		t.Errorf("left over: %v", names)
	}
}

func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	must(t, v.Prepare())
	for _, want := range []string{"one", "two"} {
		must(t, v.WritePrivate("token", []byte(want)))
		got, err := v.ReadPrivate("token")
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "private", "token"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	must(t, v.RemovePrivate("token"))
	must(t, v.RemovePrivate("token"))
	if _, err := v.ReadPrivate("token"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
