package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Local is what the agent offers to the apps of its own pod: on a loopback
// port, which every container of the pod reaches, or on a unix socket among
// the published files, which only those reach that get the files.
type Local struct {
	// Listen is a loopback address with a port. It excludes Socket.
	Listen string `json:"listen,omitempty"`
	// Socket is the socket's name in the published directory: apps see it as
	// <mount path>/<socket>.
	Socket string `json:"socket,omitempty"`
	// Mode is the permission bits of the socket: whoever may write to it may
	// connect. It belongs to Socket.
	Mode Mode `json:"mode,omitzero"`
	// Proxy passes requests of the apps on to Vault, with the agent's token.
	Proxy *Proxy `json:"proxy,omitempty"`
	// Quit makes POST /quit end the agent as SIGTERM does.
	Quit bool `json:"quit,omitempty"`
}

// Proxy is how the agent passes requests on to Vault.
type Proxy struct {
	// RequireHeader refuses requests without "X-Vault-Request: true", which
	// nothing sends that was tricked into sending a request.
	RequireHeader bool `json:"requireHeader,omitempty"`
}

// Lends reports whether apps get to use the agent's own Vault token.
func (a *Agent) Lends() bool { return a.TokenFile != nil || a.Proxies() }

// Proxies reports whether apps may ask Vault through the agent.
func (a *Agent) Proxies() bool { return a.Local != nil && a.Local.Proxy != nil }

// validateServe reports every problem of what the agent listens on.
func (a *Agent) validateServe() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	if a.Serve != "" {
		if err := checkListen(a.Serve); err != nil {
			bad("serve", "%w", err)
		}
	}
	l := a.Local
	if l == nil {
		return errs
	}
	switch {
	case a.Lifecycle == Init:
		bad("local", "lifecycle %s ends before the app starts (%s, %s)", Init, Native, Sidecar)
	case l.Proxy == nil && !l.Quit:
		bad("local", "offers nothing (proxy, quit)")
	}
	switch {
	case (l.Listen == "") == (l.Socket == ""):
		bad("local", "has both listen and socket, or neither (one of them)")
	case l.Listen != "":
		if err := checkLoopback(l.Listen); err != nil {
			bad("local.listen", "%w", err)
		}
		if l.Mode != 0 {
			bad("local.mode", "%s without a socket (only beside socket)", l.Mode)
		}
		if _, port, err := net.SplitHostPort(a.Serve); err == nil && strings.HasSuffix(l.Listen, ":"+port) {
			bad("local.listen", "%q has the port of serve (another)", l.Listen)
		}
	default:
		if err := CheckSocket(l.Socket); err != nil {
			bad("local.socket", "%w", err)
		}
		if l.Mode > 0o777 || l.Mode&0o200 == 0 {
			bad("local.mode", "%s (such as \"0600\": whoever may write to a socket may connect to it)", l.Mode)
		}
		if err := a.CheckSocketPlace(); err != nil {
			bad("local.socket", "%w", err)
		}
	}
	return errs
}

// maxSocket is the longest name of a socket, in bytes: the kernel allows 107
// for its whole path, which begins with the directory of the published files.
const maxSocket = 60

// CheckSocket says what is wrong with the name of a socket among the files.
func CheckSocket(name string) error {
	const allowed = "a name such as \"vault.sock\""
	if err := CheckPath(name); err != nil || strings.Contains(name, "/") {
		return fmt.Errorf("%q is no name of a file (%s)", name, allowed)
	}
	if len(name) > maxSocket {
		return fmt.Errorf("%.40q… is too long (%s, of at most %d bytes)", name, allowed, maxSocket)
	}
	return nil
}

// CheckSocketPlace says what published file lies where the socket is to be.
func (a *Agent) CheckSocketPlace() error {
	for _, p := range a.Paths() {
		if p == a.Local.Socket || strings.HasPrefix(p, a.Local.Socket+"/") {
			return fmt.Errorf("%q is in the way of the file %q (another name)", a.Local.Socket, p)
		}
	}
	return nil
}

// checkListen says what is wrong with an address to listen on. Without a host
// it is all of the pod's.
func checkListen(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n == 0 {
		return fmt.Errorf("%q (an IP address and a port, or a port alone, such as \":9102\")", address)
	}
	return nil
}

func checkLoopback(address string) error {
	if err := checkListen(address); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil || !isLoopback(host) {
		return fmt.Errorf("%q can be reached from outside the pod (a loopback address such as \"127.0.0.1:8200\")", address)
	}
	return nil
}
