package volume

import (
	"errors"
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

// TestOpenAtOnceStopped ends the hook before each of its changes in turn. Where
// there was a gate there always is one, and the next hook and agent heal.
func TestOpenAtOnceStopped(t *testing.T) {
	for name, before := range map[string]func(*Volume) error{
		"first": func(*Volume) error { return nil }, "guarded": (*Volume).Guard, "prepared": (*Volume).Prepare,
	} {
		t.Run(name, func(t *testing.T) {
			for step := 0; ; step++ {
				dir := t.TempDir()
				v := open(t, dir)
				must(t, before(v))
				_, err := os.Lstat(filepath.Join(dir, "out"))
				guarded := err == nil
				n := 0
				v.step = func(string) {
					if n == step {
						panic(stopped{})
					}
					n++
				}
				done := func() (done bool) {
					defer func() { _ = recover() }()
					must(t, v.OpenAtOnce())
					return true
				}()
				gate, err := os.Lstat(filepath.Join(dir, "out"))
				if guarded && (err != nil || gate.Mode()&fs.ModeSymlink == 0) {
					t.Fatalf("step %d: the gate is no link: %v %v", step, gate, err)
				}
				v = open(t, dir)
				must(t, v.OpenAtOnce())
				must(t, v.Prepare())
				must(t, v.OpenGate())
				names, err := v.entries(".")
				if err != nil || len(names) != 3 || !v.GateOpen() {
					t.Fatalf("step %d: left over %v (%v)", step, names, err)
				}
				if done {
					break
				}
			}
		})
	}
}

// The hook and the agent are at the gate at the same time: whoever is first,
// there is no instant without a gate, and in the end it is open.
func TestOpenAtOnceBesideAgent(t *testing.T) {
	for range 200 {
		dir := t.TempDir()
		must(t, open(t, dir).Guard())
		errs := make(chan error, 2)
		agent, hook := open(t, dir), open(t, dir)
		go func() { errs <- errors.Join(agent.Guard(), agent.Prepare(), agent.OpenGate()) }()
		go func() { errs <- hook.OpenAtOnce() }()
		for done := 0; done < 2; {
			if info, err := os.Lstat(filepath.Join(dir, "out")); err != nil || info.Mode()&fs.ModeSymlink == 0 {
				t.Fatalf("no gate: %v %v", info, err)
			}
			select {
			case err := <-errs:
				must(t, err)
				done++
			default:
			}
		}
		if !agent.GateOpen() {
			t.Fatal("the gate is closed")
		}
	}
}
