package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Validate reports every problem of one notification, without its place in the
// list.
func (n *Notification) Validate() []error {
	switch {
	case n.HTTP != nil && n.Signal != nil:
		return []error{fmt.Errorf("has both http and signal (one of them; each in an entry of its own)")}
	case n.HTTP != nil:
		return n.HTTP.validate()
	case n.Signal != nil:
		return n.Signal.validate()
	}
	return []error{fmt.Errorf("is empty (http or signal)")}
}

func (r *HTTPRequest) validate() []error {
	var errs []error
	u, err := url.Parse(r.URL)
	switch {
	case err != nil && strings.Contains(r.URL, "@"), u != nil && u.User != nil:
		errs = append(errs, fmt.Errorf("http.url holds credentials (a URL without user and password)"))
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		errs = append(errs, fmt.Errorf("http.url %q is not a URL (such as \"http://127.0.0.1:8080/-/reload\")", r.Target()))
	case !isLoopback(u.Hostname()):
		errs = append(errs, fmt.Errorf("http.url %q leaves the pod (a loopback host: 127.0.0.1, ::1, localhost)", r.Target()))
	case !isPort(u):
		errs = append(errs, fmt.Errorf("http.url %q has no port after its colon, or one that is none (1 to 65535, or none and no colon)", r.Target()))
	}
	if methods := []string{"", "GET", "POST", "PUT", "PATCH"}; !slices.Contains(methods, r.Method) {
		errs = append(errs, fmt.Errorf("http.method %q (%s)", r.Method, strings.Join(methods[1:], ", ")))
	}
	return errs
}

// Target is the URL as it may be logged: its query may hold a token.
func (r *HTTPRequest) Target() string {
	target, _, _ := strings.Cut(r.URL, "?")
	return target
}

// isLoopback knows every loopback address; one with a zone names an interface,
// which may be another.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Zone() == "" && ip.Unmap().IsLoopback()
}

func isPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

func (s *ProcessSignal) validate() []error {
	var errs []error
	if s.Process == "" || strings.ContainsAny(s.Process, "/\x00") || len(s.Process) > 255 {
		errs = append(errs, fmt.Errorf("signal.process %q (the name of an executable, without directories)", s.Process))
	}
	if s.Signal != "" && !slices.Contains(Signals, s.Signal) {
		errs = append(errs, fmt.Errorf("signal.signal %q (%s)", s.Signal, strings.Join(Signals, ", ")))
	}
	return errs
}
