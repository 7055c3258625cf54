package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const newSocket = config.FilesName + "/..socket_tmp"

// Listen makes a unix socket among the published files, where apps find it
// whatever is published. It appears with its mode, in the place of one that an
// earlier run left, which nobody listens on: that stays when the listener is
// closed, so that apps are told "connection refused" while an agent restarts.
// Unlike most else it may be called while the agent works on the volume.
func (v *Volume) Listen(name string, mode fs.FileMode) (net.Listener, error) {
	if err := v.remove(newSocket); err != nil {
		return nil, fmt.Errorf("making the socket %q: %w", name, err)
	}
	// There is no bind below an open directory.
	at := filepath.Join(v.root.Name(), newSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the socket %q: %w", name, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(at, mode)
	if err == nil {
		err = v.rename(newSocket, path.Join(config.FilesName, name))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the socket %q: %w", name, err), l.Close())
	}
	return l, nil
}

// isSocket reports a socket, which belongs to no set.
func (v *Volume) isSocket(name string) bool {
	info, err := v.root.Lstat(name)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}
