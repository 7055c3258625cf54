package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
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
		errs = append(errs, fmt.Errorf("http.url %q is not a URL (such as \"http://127.0.0.1:8080/-/reload\")", r.URL))
	case !isLoopback(u.Hostname()):
		errs = append(errs, fmt.Errorf("http.url %q leaves the pod (a loopback host: 127.0.0.1, ::1, localhost)", r.URL))
	}
	if methods := []string{"", "GET", "POST", "PUT", "PATCH"}; !slices.Contains(methods, r.Method) {
		errs = append(errs, fmt.Errorf("http.method %q (%s)", r.Method, strings.Join(methods[1:], ", ")))
	}
	return errs
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
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
