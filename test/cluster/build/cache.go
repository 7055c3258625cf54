package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// keep is how long an entry of the cache that nobody asked for stays: long enough for work on a branch.
const keep = 14 * 24 * time.Hour

// tempPrefix begins the names of what is not complete.
const tempPrefix = "tmp-"

// entries is the folder whose subfolders hold programs. Each is complete, because it is renamed into place.
func (b *builder) entries() string { return filepath.Join(b.cache, "parts") }

// install fills a new entry of the cache through fill and puts it in its place at once.
func (b *builder) install(entry string, fill func(temp string) error) error {
	if err := os.MkdirAll(b.entries(), 0o755); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(b.entries(), tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp) // gone already when all went well
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err := fill(temp); err != nil {
		return err
	}
	return os.Rename(temp, entry)
}

// prune removes what was not used for long, and what a killed run left. The caller holds the lock.
func (b *builder) prune() error {
	folders, err := os.ReadDir(b.entries())
	if err != nil {
		return fmt.Errorf("pruning the cache: %w", err)
	}
	for _, folder := range folders {
		info, err := folder.Info()
		if err != nil {
			return fmt.Errorf("pruning the cache: %w", err)
		}
		if !strings.HasPrefix(folder.Name(), tempPrefix) && time.Since(info.ModTime()) < keep {
			continue
		}
		if err := os.RemoveAll(filepath.Join(b.entries(), folder.Name())); err != nil {
			return fmt.Errorf("pruning the cache: %w", err)
		}
	}
	return nil
}

// lock waits until no other run builds into the cache.
func (b *builder) lock(ctx context.Context) (unlock func(), err error) {
	stop := func() {}
	unlock, err = Lock(ctx, filepath.Join(b.cache, "parts.lock"), func() { stop = b.report("waiting for another run that builds the same") })
	stop()
	return unlock, err
}

// Lock makes the file and locks it for this process alone. If another has it, Lock calls wait once and waits until it is
// free or ctx ends. The kernel releases the lock of a process that is killed.
func Lock(ctx context.Context, path string, wait func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	unlock = func() { file.Close() }
	if err = tryLock(file); err == nil {
		return unlock, nil
	}
	wait()
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	for ; errors.Is(err, syscall.EWOULDBLOCK); err = tryLock(file) {
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("waiting for the lock %s: %w", path, context.Cause(ctx))
		case <-poll.C:
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return unlock, nil
}

func tryLock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// touch notes that an entry is in use. Another user's cache may be read-only to us: then its owner prunes by their own use.
func touch(dir string) error {
	now := time.Now()
	err := os.Chtimes(dir, now, now)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("noting the use of %s: %w", dir, err)
	}
	return nil
}

func (b *builder) say(format string, args ...any) {
	fmt.Fprintf(b.log, format+"\n", args...)
}

// report says what is going on, and again with the time that it took so far, until stop is called.
func (b *builder) report(what string) (stop func()) {
	start := time.Now()
	b.say("%s", what)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(b.progress)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				b.say("%s … %s", what, time.Since(start).Round(time.Second))
			}
		}
	}()
	return func() { close(done); <-ended }
}
