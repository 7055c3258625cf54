package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tools puts programs in the place of apt-get and dpkg-deb.
func tools(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// unpack is a dpkg-deb whose packages hold one program.
const unpack = `mkdir -p root/usr/sbin && printf '#!/bin/sh\necho hello\n' >root/usr/sbin/hello && chmod +x root/usr/sbin/hello`

var hello = source{name: "hello", deb: "hello", programs: []string{"hello"}}

func TestPackageIsFetchedOnce(t *testing.T) {
	tools(t, map[string]string{
		"apt-get":  `touch 'hello_1%3a2.0-1_amd64.deb'`,
		"dpkg-deb": unpack,
	})
	var log bytes.Buffer
	b := checkout(t, &log)
	for range 2 {
		parts, err := b.ensure(t.Context(), []source{hello}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := parts["hello"]; !strings.Contains(got, "hello_1-2.0-1_") || !exists(got) {
			t.Errorf("got %s, want a program in a folder with the package's version", got)
		}
	}
	if n := strings.Count(log.String(), "fetching hello"); n != 1 {
		t.Errorf("fetched %d times, want once:\n%s", n, &log)
	}
}

func TestPackageThatCannotBeFetched(t *testing.T) {
	for _, test := range []struct{ name, apt, dpkg, want string }{
		{"apt fails", `echo "E: Unable to locate package hello" >&2; exit 100`, unpack, "Unable to locate package hello"},
		{"nothing comes", `true`, unpack, "apt-get download left 0 files"},
		{"the program is not in it", `touch hello_1_amd64.deb`, `mkdir -p root/usr/bin`, "package hello: no program hello in usr/bin"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tools(t, map[string]string{"apt-get": test.apt, "dpkg-deb": test.dpkg})
			b := checkout(t, new(bytes.Buffer))
			_, err := b.ensure(t.Context(), []source{hello}, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			left, err := os.ReadDir(b.entries())
			if err != nil || len(left) != 0 {
				t.Errorf("the cache holds %v (%v), want nothing", left, err)
			}
		})
	}
}
