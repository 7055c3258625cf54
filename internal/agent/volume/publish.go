package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// File is one file of a set.
type File struct {
	Path    string // below the mounted directory, clean, as config.CheckPath wants it
	Mode    fs.FileMode
	Content sealed.Value[[]byte]
	// Keep publishes the file as it is now instead of Content; where there is
	// none now, none is published.
	Keep bool
}

// Publish makes files the published set: all at once, and nothing else stays.
// It returns the paths whose bytes or mode changed, or that are gone. A file that
// stays the same stays the same inode; where all do, nothing is written. On an
// error the old set is still published.
func (v *Volume) Publish(files []File) (changed []string, err error) {
	old := v.currentSet()
	gone := v.paths(old)
	var next, linked []File
	for _, f := range files {
		delete(gone, f.Path)
		switch {
		case f.Keep:
			if v.has(old, f.Path) {
				linked = append(linked, f)
			}
		case v.same(old, f):
			linked = append(linked, f)
		default:
			next = append(next, f)
			changed = append(changed, f.Path)
		}
	}
	if len(next) == 0 && len(gone) == 0 && old != "" {
		return nil, nil
	}
	changed = slices.AppendSeq(changed, maps.Keys(gone))
	slices.Sort(changed)
	set, err := v.newSet()
	if err == nil {
		err = v.fill(set, old, next, linked)
	}
	if err == nil {
		err = v.swap(set, append(next, linked...))
	}
	if err != nil {
		if set != "" && v.currentSet() != set {
			err = errors.Join(err, v.remove(path.Join(config.FilesName, set)))
		}
		return nil, fmt.Errorf("publishing files: %w", err)
	}
	return changed, nil
}

// Set is the name of the published set, or "" where nothing is published yet.
// Another publication has another name.
func (v *Volume) Set() string { return v.currentSet() }

// Has reports whether a file of this path is in the published set.
func (v *Volume) Has(p string) bool { return v.has(v.currentSet(), p) }

// currentSet is the name of the set that is published, or "".
func (v *Volume) currentSet() string {
	set, err := v.root.Readlink(current)
	if err != nil {
		return ""
	}
	if info, err := v.root.Lstat(path.Join(config.FilesName, set)); err != nil || !info.IsDir() {
		return ""
	}
	return set
}

func (v *Volume) has(set, p string) bool {
	if set == "" {
		return false
	}
	info, err := v.root.Lstat(path.Join(config.FilesName, set, p))
	return err == nil && info.Mode().IsRegular()
}

// same compares with what lies in the volume, so that a restarted agent knows
// as well what changed.
func (v *Volume) same(set string, f File) bool {
	if !v.has(set, f.Path) {
		return false
	}
	name, content := path.Join(config.FilesName, set, f.Path), f.Content.Reveal()
	info, err := v.root.Lstat(name)
	if err != nil || info.Mode().Perm() != f.Mode || info.Size() != int64(len(content)) {
		return false
	}
	old, err := v.root.ReadFile(name)
	return err == nil && bytes.Equal(old, content)
}

// paths are the files of a set.
func (v *Volume) paths(set string) map[string]bool {
	paths := make(map[string]bool)
	if set == "" {
		return paths
	}
	dir := path.Join(config.FilesName, set)
	_ = fs.WalkDir(v.root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths[strings.TrimPrefix(p, dir+"/")] = true
		}
		return nil
	})
	return paths
}

// newSet makes an empty set under a name that was not there.
func (v *Volume) newSet() (string, error) {
	stamp := time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
	for i := 0; ; i++ {
		set := stamp + "." + strconv.Itoa(i)
		dir := path.Join(config.FilesName, set)
		if _, err := v.root.Lstat(dir); err == nil {
			continue
		}
		return set, v.directory(dir, 0o755)
	}
}

// fill writes the new files of a set and hard-links the unchanged ones.
func (v *Volume) fill(set, old string, written, linked []File) error {
	dirs := map[string]bool{".": true}
	parent := func(p string) error {
		var missing []string
		for dir := path.Dir(p); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
			missing = append(missing, dir)
		}
		for _, dir := range slices.Backward(missing) {
			if err := v.directory(path.Join(config.FilesName, set, dir), 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	for _, f := range written {
		if err := parent(f.Path); err != nil {
			return err
		}
		if err := v.write(path.Join(config.FilesName, set, f.Path), f.Content.Reveal(), f.Mode); err != nil {
			// The set's own name would make the message another each time.
			var at *fs.PathError
			if errors.As(err, &at) {
				err = at.Err
			}
			if errors.Is(err, syscall.ENOSPC) {
				err = fmt.Errorf("%w (the volume's sizeLimit is too small for these files)", err)
			}
			return fmt.Errorf("writing %q: %w", f.Path, err)
		}
	}
	for _, f := range linked {
		if err := parent(f.Path); err != nil {
			return err
		}
		if err := v.link(path.Join(config.FilesName, old, f.Path), path.Join(config.FilesName, set, f.Path)); err != nil {
			return err
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := v.sync(path.Join(config.FilesName, set, dir)); err != nil {
			return err
		}
	}
	return nil
}

// swap publishes a filled set. The link of a new name is made before the swap,
// when it leads nowhere, and that of an old name removed after it, when it
// leads nowhere too: so names come and go in the same instant as the rest.
func (v *Volume) swap(set string, files []File) error {
	names := make(map[string]bool)
	for _, f := range files {
		name, _, _ := strings.Cut(f.Path, "/")
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		link, target := path.Join(config.FilesName, name), "..data/"+name
		if got, err := v.root.Readlink(link); err == nil && got == target {
			continue
		}
		if err := v.remove(link); err != nil {
			return err
		}
		if err := v.symlink(target, link); err != nil {
			return err
		}
	}
	if err := v.replaceLink(set, newData, current); err != nil {
		return err
	}
	if err := v.sync(config.FilesName); err != nil {
		return err
	}
	return v.sweep(set)
}

// sweep removes from the mounted directory all that does not belong to a set,
// other than sockets.
func (v *Volume) sweep(set string) error {
	names, err := v.entries(config.FilesName)
	if err != nil {
		return err
	}
	for _, name := range names {
		file := path.Join(config.FilesName, name)
		keep := set != "" && (name == set || name == path.Base(current)) || v.isSocket(file)
		if set != "" && !strings.HasPrefix(name, "..") {
			_, err := v.root.Lstat(path.Join(config.FilesName, set, name))
			keep = keep || err == nil
		}
		if keep {
			continue
		}
		if err := v.remove(file); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) entries(dir string) ([]string, error) {
	d, err := v.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
