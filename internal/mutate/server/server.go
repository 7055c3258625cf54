// Package server runs the injector: the webhook over TLS, and beside it an
// address for probes and metrics. What it answers depends on nothing but its
// files, so that pods can be injected while everything else is down.
package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/latchkey-dev/latchkey/internal/certs"
	"github.com/latchkey-dev/latchkey/internal/mutate"
)

// Options say what to serve, and where.
type Options struct {
	// ConfigFile is the operator's configuration; empty is the built-in one.
	ConfigFile string
	// Listen is the webhook's address, OpsListen that of probes and metrics:
	// each host:port with an optional host.
	Listen, OpsListen string
	// CertDir holds tls.crt and tls.key. They may come later than the process,
	// and change. Exactly one of CertDir and SelfManaged is set.
	CertDir string
	// SelfManaged keeps a CA of the injector's own instead.
	SelfManaged *certs.SelfManaged
	// OpsCertDir holds tls.crt and tls.key for OpsListen, which speaks plain HTTP
	// without. Optional.
	OpsCertDir string
	// OpsClientCA is a PEM file: metrics are then for clients with a certificate
	// of that CA alone. Optional; needs OpsCertDir.
	OpsClientCA string
	// Drain is how long requests are still taken after the end was asked for:
	// until every API server has heard that this replica is not ready.
	Drain time.Duration
	Log   *slog.Logger
}

const (
	reloadEvery = 10 * time.Second
	// patience is how long a request may take to come in and its answer to go
	// out. The API server gives up earlier: its timeoutSeconds is 5.
	patience = 10 * time.Second
)

// server is what the parts share.
type server struct {
	Options
	config  *configFile
	metrics *metrics
	certs   *certs.Keeper
	// opsAddr is where probes and metrics are served.
	opsAddr net.Addr
	// state is the reason not to be ready, empty when ready; changed, if set,
	// is told of each.
	state    atomic.Pointer[string]
	draining atomic.Bool
	// failed is told why the server has to end.
	failed  chan error
	changed func(state string)
	// drained, if set, ends the draining before its time.
	drained chan struct{}
}

const waitingForCertificate = "waiting for certificate"

func (s *server) is(state string) {
	s.state.Store(&state)
	if s.changed != nil {
		s.changed(state)
	}
}

// Run serves until ctx ends and requests under way are answered.
func Run(ctx context.Context, o Options) error {
	return (&server{Options: o}).run(ctx)
}

func (s *server) run(ctx context.Context) error {
	o := s.Options
	s.metrics = newMetrics()
	s.is("starting")
	var err error
	if s.config, err = openConfig(o.ConfigFile, o.Log, s.metrics); err != nil {
		return err
	}
	host, port, err := splitAddress(o.Listen)
	if err != nil {
		return fmt.Errorf("webhook address: %w", err)
	}
	if s.certs, err = s.keeper(); err != nil {
		return err
	}

	// Serving outlasts ctx by the time of draining.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s.failed = make(chan error, 2)
	ops, err := s.listenOps(serving)
	if err != nil {
		return err
	}
	s.opsAddr = ops.Addr()
	opsServer := &http.Server{Handler: within(patience, s.opsHandler()), ReadHeaderTimeout: patience, IdleTimeout: time.Minute}
	go func() { s.failed <- fmt.Errorf("serving probes and metrics: %w", opsServer.Serve(ops)) }()
	defer func() { _ = opsServer.Close() }()
	go s.config.watch(serving, reloadEvery)
	go func() {
		if err := s.certs.Run(serving); err != nil {
			s.failed <- err
		}
	}()

	s.is(waitingForCertificate)
	select {
	case <-s.certs.First():
	case err = <-s.failed:
		return err
	case <-ctx.Done():
		return nil // asked to end before there was anything to serve
	}
	s.is("starting webhook")
	// The webhook's HTTP server has no logger of its own and uses this one.
	stdlog.SetFlags(0)
	stdlog.SetOutput(httpLog{o.Log, s.metrics})
	hook := webhook.NewServer(webhook.Options{
		Host: host,
		Port: port,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.MinVersion = tls.VersionTLS12
			c.NextProtos = []string{"h2", "http/1.1"}
			c.GetCertificate = s.certs.GetCertificate
		}},
	})
	handler := &mutate.Handler{Config: s.config.current.Load, Log: o.Log, Observe: s.metrics.observe}
	hook.Register("/mutate", within(patience, s.lettingGo(handler)))
	done := make(chan error, 1)
	go func() { done <- hook.Start(serving) }()
	go s.readyOnceUp(serving, hook)
	o.Log.Info("serving", "listen", o.Listen, "opsListen", o.OpsListen)

	var failure error
	select {
	case err = <-done:
		return fmt.Errorf("serving webhook: %w", err)
	case failure = <-s.failed: // no reason to lose what is under way
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.is("shutting down")
	o.Log.Info("draining", "duration", o.Drain.String())
	drain := time.NewTimer(o.Drain)
	defer drain.Stop()
	select {
	case <-drain.C:
	case <-s.drained:
	case err = <-done:
		return fmt.Errorf("serving webhook: %w", err)
	}
	stop()
	if err := <-done; err != nil {
		return fmt.Errorf("serving webhook: %w", err)
	}
	o.Log.Info("stopped")
	return failure
}

func (s *server) keeper() (*certs.Keeper, error) {
	if s.SelfManaged != nil {
		return certs.Managed(*s.SelfManaged, s.Log)
	}
	return certs.Files(s.CertDir, s.Log), nil
}

// lettingGo ends each connection with its next answer while the server drains.
// At the end it closes those that are idle, and what the API server has just
// sent on one of them is lost: it does not ask again, and refuses the pod (seen
// under load: http: server closed idle connection, broken pipe).
func (s *server) lettingGo(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close") // HTTP/2: no further requests
		}
		h.ServeHTTP(w, r)
	})
}

// httpLog takes what an HTTP server has to say, a line at a time, and counts the
// clients that have refused our certificate.
type httpLog struct {
	log     *slog.Logger
	metrics *metrics
}

func (l httpLog) Write(line []byte) (int, error) {
	// Whoever only opens and closes the port ends with EOF. Who does not trust us
	// says so by an alert: bad certificate, unknown authority, expired certificate.
	if bytes.Contains(line, []byte("TLS handshake error")) && bytes.Contains(line, []byte("remote error: tls: ")) {
		l.metrics.handshakeErrors.WithLabelValues().Inc()
	}
	l.log.Warn(strings.TrimSpace(string(line)))
	return len(line), nil
}

// within ends a request that takes longer than d. The webhook's server itself
// bounds the headers alone, so that whoever reaches it could hold connections
// and memory by sending bodies slowly.
func within(d time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control, end := http.NewResponseController(w), time.Now().Add(d)
		// The writers of net/http can do both, of HTTP/2 too.
		_ = control.SetReadDeadline(end)
		_ = control.SetWriteDeadline(end.Add(d)) // for the answer to a slow body
		h.ServeHTTP(w, r)
	})
}

// readyOnceUp says that the webhook is ready when it answers a handshake.
func (s *server) readyOnceUp(ctx context.Context, hook webhook.Server) {
	check := hook.StartedChecker()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	starting := s.state.Load()
	for check(nil) != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	ready := ""
	// Draining may have begun meanwhile.
	if s.state.CompareAndSwap(starting, &ready) && s.changed != nil {
		s.changed(ready)
	}
}

func splitAddress(address string) (string, int, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q (host:port, such as \":8443\")", address)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return "", 0, fmt.Errorf("%q: %w", address, errors.New("the port is no number from 1 to 65535"))
	}
	return host, int(port), nil
}
