package volume

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// stopped is what the test's step panics with: nothing of the agent runs after it.
type stopped struct{}

// TestStoppedAtEveryStep ends the agent before each of its changes in turn. At
// that instant a reader must see all of one set, never a mixture, and the gate
// must be a link; and the next start must heal.
func TestStoppedAtEveryStep(t *testing.T) {
	first := []File{file("a", "old", 0o400), file("same", "same", 0o444), file("tls/crt", "old", 0o400), file("tls/key", "old", 0o400), file("gone/x", "old", 0o400)}
	second := []File{file("a", "new", 0o400), file("same", "same", 0o444), file("tls/crt", "new", 0o400), file("tls/key", "new", 0o400), file("more/y", "new", 0o400)}
	seen := func(files []File) map[string]string {
		dir := t.TempDir()
		v := open(t, dir)
		must(t, v.Prepare())
		publish(t, v, files...)
		return read(t, filepath.Join(dir, "files"))
	}
	old, young := seen(first), seen(second)

	life := func(v *Volume) (err error) {
		for _, do := range []func() error{
			v.Guard, v.Prepare,
			func() error { return v.WritePrivate("token", []byte("1")) },
			func() error { _, err := v.Publish(first); return err },
			v.OpenGate,
			func() error { return v.WritePrivate("token", []byte("2")) },
			func() error { _, err := v.Publish(second); return err },
			func() error { return v.WritePrivate("revoked", nil) },
			v.CloseGate,
			v.Prepare,
			v.OpenGate,
			func() error { return v.RemovePrivate("revoked") },
			func() error { _, err := v.Publish(first); return err },
		} {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	}

	steps := 0
	for ; ; steps++ {
		dir := t.TempDir()
		v := open(t, dir)
		n, last := 0, ""
		v.step = func(change string) {
			if n == steps {
				last = change
				panic(stopped{})
			}
			n++
		}
		finished := func() (done bool) {
			defer func() {
				if r := recover(); r != nil {
					if _, ok := r.(stopped); !ok {
						panic(r)
					}
				}
			}()
			must(t, life(v))
			return true
		}()

		gate, err := os.Lstat(filepath.Join(dir, "out"))
		if steps > 0 && (err != nil || gate.Mode()&fs.ModeSymlink == 0) {
			t.Fatalf("step %d (%s): the gate is no link: %v %v", steps, last, gate, err)
		}
		// Apps that run have the directory mounted whatever the gate says.
		if open(t, dir).GateOpen() || v.currentSet() != "" {
			if got := read(t, filepath.Join(dir, "files")); !maps.Equal(got, old) && !maps.Equal(got, young) {
				t.Fatalf("step %d (%s): a reader sees %v", steps, last, got)
			}
		}
		var mounted uint64
		if v.currentSet() != "" {
			mounted = inode(t, filepath.Join(dir, "files"))
		}
		if token, err := v.ReadPrivate("token"); err == nil && string(token) != "1" && string(token) != "2" {
			t.Fatalf("step %d (%s): token %q", steps, last, token)
		}

		// The next start.
		v = open(t, dir)
		must(t, v.Prepare())
		publish(t, v, second...)
		must(t, v.OpenGate())
		if got := read(t, filepath.Join(dir, "out")); !maps.Equal(got, young) {
			t.Fatalf("step %d (%s): after a restart a reader sees %v", steps, last, got)
		}
		if mounted != 0 && inode(t, filepath.Join(dir, "files")) != mounted {
			t.Fatalf("step %d (%s): the mounted directory was replaced", steps, last)
		}
		root, _ := v.entries(".")
		files, _ := v.entries("files")
		private, _ := v.entries("private")
		if len(root) != 3 || len(files) != 6 || len(private) > 2 {
			t.Fatalf("step %d (%s): left over: %v %v %v", steps, last, root, files, private)
		}
		if finished {
			break
		}
	}
	if steps < 60 {
		t.Errorf("only %d steps", steps)
	}
}
