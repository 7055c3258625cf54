package render

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// largestShown bounds what the function file reads, in bytes.
const largestShown = 1 << 20

// showsVariable says why templates may not see a variable of the environment,
// under the name by which an error may call it.
func showsVariable(show config.Show, name, called string) error {
	if slices.Contains(show.Env, name) {
		return nil
	}
	return notShown("variable", called, show.Env)
}

func notShown(what, called string, shown []string) error {
	list := "none is"
	if len(shown) > 0 {
		list = "shown: " + strings.Join(shown, ", ")
	}
	return plain(fmt.Sprintf("%s %q is not shown to templates (%s)", what, called, list))
}

// showsFile returns the directory that a file may be read from, and its path
// below it, or says why there is none as showsVariable does.
func showsFile(show config.Show, file, called string) (dir, below string, err error) {
	for _, dir := range show.Dirs {
		below, err := filepath.Rel(dir, filepath.Clean(file))
		if err == nil && filepath.IsLocal(below) {
			return dir, below, nil
		}
	}
	return "", "", notShown("file", called, show.Dirs)
}

// env is the value of a variable of the agent's environment, or an empty string.
func (r *Renderer) env(name string) (string, error) {
	if err := showsVariable(r.options.Show, name, r.called(name)); err != nil {
		return "", err
	}
	return os.Getenv(name), nil
}

// mustEnv is env for a variable that must not be empty.
func (r *Renderer) mustEnv(name string) (string, error) {
	value, err := r.env(name)
	if err == nil && value == "" {
		err = plain(fmt.Sprintf("variable %q is empty", r.called(name)))
	}
	return value, err
}

// envOrDefault is env with a value for a variable that is not set.
func (r *Renderer) envOrDefault(name, otherwise string) (string, error) {
	value, err := r.env(name)
	if _, ok := os.LookupEnv(name); err == nil && !ok {
		return otherwise, nil
	}
	return value, err
}

// readFile is what a file of a shown directory holds. Symlinks are followed
// inside of it, as those of a mounted ConfigMap are.
func (r *Renderer) readFile(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	called := r.called(file)
	dir, below, err := showsFile(r.options.Show, file, called)
	if err != nil {
		return "", err
	}
	data, err := readBelow(dir, below)
	if err != nil {
		return "", plain(fmt.Sprintf("reading file %q below %q: %v", called, dir, err))
	}
	r.inputs.add("file", file, string(data))
	return string(data), nil
}

// readBelow reads a regular file. Its errors name no file.
func readBelow(dir, below string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.New("no such directory")
	}
	defer root.Close()
	// Opening a named pipe would wait for its writer.
	f, err := root.OpenFile(below, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.New("it is missing, may not be read, or is a link that leads out of the directory")
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil || !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case info.Size() > largestShown:
		return nil, fmt.Errorf("it has %d bytes (at most %d)", info.Size(), largestShown)
	}
	data, err := io.ReadAll(io.LimitReader(f, largestShown))
	if err != nil {
		return nil, errors.New("it cannot be read")
	}
	return data, nil
}
