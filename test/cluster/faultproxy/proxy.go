// Package faultproxy stands between an agent and its Vault and misbehaves on request: it lets requests pass, answers
// late, cuts connections, refuses them, or answers 429 or 503 itself.
//
// It ends TLS, so that it can speak HTTP to the agent; its certificate comes from the box's CA. The mode is changed while it
// runs, by [Proxy.Set], and holds for all that comes after.
package faultproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// A Mode is what the proxy does to requests. The zero Mode lets them pass.
type Mode struct {
	// Fault is "" or one of:
	//   slow    hold each request for Delay, then let it pass
	//   cut     close the connection instead of answering
	//   refuse  accept no connection, and close those that are open
	//   status  answer Status, with Vault's form of an error, without asking Vault
	Fault      string
	Delay      time.Duration
	Status     int
	RetryAfter int    // seconds; 0: no such header
	Path       string // only requests for this path; "" is all. Not with refuse
	Count      int    // only so many requests, then they pass; 0 is no limit. Not with refuse
}

func (m Mode) validate() error {
	switch m.Fault {
	case "", "cut":
	case "slow":
		if m.Delay <= 0 {
			return fmt.Errorf("fault slow with a delay of %s (want more than 0)", m.Delay)
		}
	case "refuse":
		if m.Path != "" || m.Count != 0 {
			return errors.New("fault refuse with a path or a count (it knows no requests)")
		}
	case "status":
		if m.Status < 300 || m.Status > 599 {
			return fmt.Errorf("fault status with status %d (want 300 to 599)", m.Status)
		}
	default:
		return fmt.Errorf("unknown fault %q (want slow, cut, refuse, status, or none)", m.Fault)
	}
	return nil
}

// A Proxy forwards HTTP to one target.
type Proxy struct {
	address string
	tls     *tls.Config
	forward *httputil.ReverseProxy
	held    func() // for tests: a request is being held

	mu       sync.Mutex
	mode     Mode
	changed  chan struct{} // closed when the mode changes
	server   *http.Server  // nil while refusing
	requests int           // all that came in
	faulty   int           // those that met the fault
}

// New returns a proxy that is about to listen on address (host:port) with the certificate, and forwards to target
// through transport. Without a certificate it speaks plain HTTP.
func New(address string, cert *tls.Certificate, target *url.URL, transport http.RoundTripper) *Proxy {
	p := &Proxy{address: address, changed: make(chan struct{})}
	if cert != nil {
		p.tls = &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}}
	}
	p.forward = &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = target.Host },
		Transport: transport,
		ErrorLog:  log.New(discard{}, "", 0), // what the target does wrong, the caller sees as 502
	}
	return p
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// Start listens. A port of 0 is chosen once and kept for every later listening; Address tells it.
func (p *Proxy) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listen()
}

func (p *Proxy) listen() error {
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return fmt.Errorf("listening for the proxy: %w", err)
	}
	p.address = listener.Addr().String()
	if p.tls != nil {
		listener = tls.NewListener(listener, p.tls)
	}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(discard{}, "", 0)}
	go p.server.Serve(listener) // until it is closed
	return nil
}

// Address returns where it listens, as host:port.
func (p *Proxy) Address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hangUp()
}

func (p *Proxy) hangUp() error {
	if p.server == nil {
		return nil
	}
	err := p.server.Close()
	p.server = nil
	return err
}

// Set changes the mode. Requests that a slow mode holds go on at once.
func (p *Proxy) Set(m Mode) error {
	if err := m.validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	switch {
	case m.Fault == "refuse":
		return p.hangUp()
	case p.server == nil:
		return p.listen()
	}
	return nil
}

// Counts returns how many requests came in, and how many of them met a fault.
func (p *Proxy) Counts() (requests, faulty int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, p.faulty
}

// meet returns the mode for one request.
func (p *Proxy) meet(path string) (Mode, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.mode.Fault == "" || p.mode.Path != "" && p.mode.Path != path {
		return Mode{}, p.changed
	}
	m := p.mode
	p.faulty++
	if p.mode.Count > 0 {
		if p.mode.Count--; p.mode.Count == 0 {
			p.mode = Mode{}
		}
	}
	return m, p.changed
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	mode, changed := p.meet(r.URL.Path)
	switch mode.Fault {
	case "cut":
		panic(http.ErrAbortHandler)
	case "status":
		w.Header().Set("Content-Type", "application/json")
		if mode.RetryAfter > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(mode.RetryAfter))
		}
		w.WriteHeader(mode.Status)
		fmt.Fprintf(w, `{"errors":["%d by the fault proxy"]}`+"\n", mode.Status)
		return
	case "slow":
		if p.held != nil {
			p.held()
		}
		if !hold(r.Context(), mode.Delay, changed) {
			return
		}
	}
	p.forward.ServeHTTP(w, r)
}

// hold waits for the delay or a change of mode. It returns false if the caller has gone.
func hold(ctx context.Context, delay time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return false
	}
	return true
}
