// Package volume is the directory that the agent shares with the app
// containers: the start gate, the published files, and what the agent keeps
// for itself across restarts.
//
//	out -> nowhere | files     what apps mount; to nowhere until files are there
//	files/                     the mounted directory, never replaced
//	files/..2026_11_21_…/      one set of files, never changed once it is linked
//	files/..data -> ..2026_…   renamed over, which swaps all files at once
//	files/NAME -> ..data/NAME  what apps open
//	files/SOCKET               what apps connect to, if the agent listens there
//	private/                   mode 0700: the Vault token, answers of writes, why it is not ready, …
//
// It is safe to be killed at any instant: every change that a reader can see
// is one rename, and Prepare clears away what a killed run left behind.
package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	nowhere = "nowhere" // where the closed gate leads: a name that never exists
	newGate = config.OutName + ".new"
	// hookGate is the hook's own, since the agent may be at the gate as well.
	hookGate = config.OutName + ".hook"
	current  = config.FilesName + "/..data"
	newData  = config.FilesName + "/..data_tmp"
	partial  = ".new" // ends the name of a private file that is being written
)

// Volume is the shared directory. One agent at a time may change it.
type Volume struct {
	root *os.Root
	// step, if set, is called before each change, with its name: tests stop
	// the agent there.
	step func(change string)
}

// Open opens the directory, which must exist.
func Open(dir string) (*Volume, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the shared volume: %w", err)
	}
	return &Volume{root: root, step: firstStep()}, nil
}

// Close releases the directory.
func (v *Volume) Close() error { return v.root.Close() }

// Guard closes the gate if there is none yet: apps mount the subPath "out",
// which the kubelet cannot do while it is a link to nowhere, and it retries.
// There must be no instant without the link, or the kubelet makes a directory
// of its own there and starts the app without files.
func (v *Volume) Guard() error {
	if err := v.symlink(nowhere, config.OutName); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the start gate: %w", err)
	}
	info, err := v.root.Lstat(config.OutName)
	if err != nil {
		return fmt.Errorf("checking the start gate: %w", err)
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%q in the shared volume is no link but %s: it was mounted before the agent could run (delete the pod)", config.OutName, info.Mode().Type())
	}
	return nil
}

// GateOpen reports whether app containers may start.
func (v *Volume) GateOpen() bool {
	target, err := v.root.Readlink(config.OutName)
	return err == nil && target == config.FilesName
}

// OpenAtOnce opens the gate before there are files, for apps that wait for their files
// by themselves. Unlike all else it may be called while the agent works on the
// volume.
func (v *Volume) OpenAtOnce() error {
	if err := v.directory(config.FilesName, 0o755); err != nil {
		return fmt.Errorf("making the directory of files: %w", err)
	}
	if err := v.symlink(config.FilesName, config.OutName); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the start gate: %w", err)
	}
	for !v.GateOpen() {
		if err := v.Guard(); err != nil {
			return err
		}
		// The agent that starts clears away what it takes for left behind.
		if err := v.replaceLink(config.FilesName, hookGate, config.OutName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("turning the start gate to %s: %w", config.FilesName, err)
		}
	}
	return v.sync(".")
}

// OpenGate lets app containers start.
func (v *Volume) OpenGate() error {
	if v.GateOpen() {
		return nil
	}
	return v.swapGate(config.FilesName)
}

// CloseGate keeps app containers from starting. Those that run keep what they
// have mounted.
func (v *Volume) CloseGate() error { return v.swapGate(nowhere) }

func (v *Volume) swapGate(target string) error {
	if err := v.replaceLink(target, newGate, config.OutName); err != nil {
		return fmt.Errorf("turning the start gate to %s: %w", target, err)
	}
	return v.sync(".")
}

// Prepare makes the directories and clears away what a killed run left behind.
func (v *Volume) Prepare() error {
	if err := v.Guard(); err != nil {
		return err
	}
	if err := v.directory(config.PrivateName, 0o700); err != nil {
		return err
	}
	if err := v.directory(config.FilesName, 0o755); err != nil {
		return err
	}
	for _, left := range []string{newGate, hookGate} {
		if err := v.remove(left); err != nil {
			return err
		}
	}
	kept, err := v.entries(config.PrivateName)
	if err != nil {
		return err
	}
	for _, name := range kept {
		if strings.HasSuffix(name, partial) {
			if err := v.remove(path.Join(config.PrivateName, name)); err != nil {
				return err
			}
		}
	}
	return v.sweep(v.currentSet())
}

// ReadPrivate returns what WritePrivate kept under name.
func (v *Volume) ReadPrivate(name string) ([]byte, error) {
	return v.root.ReadFile(path.Join(config.PrivateName, name))
}

// WritePrivate keeps data under name, readable by the agent's user only. A
// reader sees all of the old or all of the new data.
func (v *Volume) WritePrivate(name string, data []byte) error {
	file := path.Join(config.PrivateName, name)
	if err := v.remove(file + partial); err != nil {
		return err
	}
	if err := v.write(file+partial, data, 0o600); err != nil {
		return err
	}
	if err := v.rename(file+partial, file); err != nil {
		return err
	}
	return v.sync(config.PrivateName)
}

// Private are the names under which something is kept that begin with prefix.
func (v *Volume) Private(prefix string) ([]string, error) {
	names, err := v.entries(config.PrivateName)
	return slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasPrefix(name, prefix) || strings.HasSuffix(name, partial)
	}), err
}

// RemovePrivate forgets what is kept under name, if anything is.
func (v *Volume) RemovePrivate(name string) error {
	if err := v.remove(path.Join(config.PrivateName, name)); err != nil {
		return err
	}
	return v.sync(config.PrivateName)
}
