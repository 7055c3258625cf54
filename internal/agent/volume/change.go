package volume

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// This file holds all changes that the package makes to the directory.

func (v *Volume) before(change, name string) {
	if v.step != nil {
		v.step(change + " " + name)
	}
}

func (v *Volume) symlink(target, name string) error {
	v.before("symlink", name)
	return v.root.Symlink(target, name)
}

func (v *Volume) rename(from, to string) error {
	v.before("rename", to)
	return v.root.Rename(from, to)
}

func (v *Volume) link(from, to string) error {
	v.before("link", to)
	return v.root.Link(from, to)
}

// remove removes a file or a whole directory, if it is there.
func (v *Volume) remove(name string) error {
	if _, err := v.root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	v.before("remove", name)
	return v.root.RemoveAll(name)
}

// replaceLink makes name a link to target by renaming temporary over it.
func (v *Volume) replaceLink(target, temporary, name string) error {
	if err := v.remove(temporary); err != nil {
		return err
	}
	if err := v.symlink(target, temporary); err != nil {
		return err
	}
	return v.rename(temporary, name)
}

// directory makes name a directory of exactly this mode. The set-group-ID bit
// stays: it is how the kubelet gives files their fsGroup.
func (v *Volume) directory(name string, mode fs.FileMode) error {
	v.before("mkdir", name)
	if err := v.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Modes are set through the open file: by name, os.Root needs /proc/self/fd
	// on kernels before 6.6, which a process that is not dumpable cannot read.
	dir, err := v.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	const bits = fs.ModePerm | fs.ModeSetgid
	if want := mode | info.Mode()&fs.ModeSetgid; info.Mode()&bits != want {
		v.before("chmod", name)
		return dir.Chmod(want)
	}
	return nil
}

// write makes a new file of exactly this mode, whatever the umask.
func (v *Volume) write(name string, data []byte, mode fs.FileMode) error {
	v.before("create", name)
	file, err := v.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	v.before("write", name)
	_, err = file.Write(data)
	if err == nil {
		v.before("chmod", name)
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (v *Volume) sync(dir string) error {
	d, err := v.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
