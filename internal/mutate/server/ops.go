package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"

	"github.com/latchkey-dev/latchkey/internal/certs"
)

// opsHandler serves probes and metrics.
func (s *server) opsHandler() http.Handler {
	r := mux.NewRouter()
	get := r.Methods(http.MethodGet, http.MethodHead).Subrouter()
	get.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	get.HandleFunc("/readyz", s.readyz)
	metrics := s.metrics.handler(s.certs.Status)
	if s.OpsClientCA != "" {
		metrics = forKnownClients(metrics)
	}
	get.Handle("/metrics", metrics)
	return r
}

// readyz says in words what a probe takes from the status: why not ready, or
// what needs attention although it is.
func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	state, cert := *s.state.Load(), s.certs.Status()
	if state == "" {
		state = cert.Problem
	} else if state == waitingForCertificate {
		state += ": " + cert.Problem
	}
	if state != "" {
		http.Error(w, "not ready: "+state, http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintf(w, "ready\ncertificate: %s, until %s\n", cert.Mode, cert.NotAfter.UTC().Format(time.RFC3339))
	if cert.Trouble != "" {
		_, _ = fmt.Fprintln(w, "certificate:", cert.Trouble)
	}
	// An old configuration serves better than none: said, but no reason to stop.
	if problem := *s.config.problem.Load(); problem != "" {
		_, _ = fmt.Fprintln(w, "the last good configuration is in use:", problem)
	}
}

// forKnownClients refuses who has shown no certificate. The kubelet has none
// for its probes, so that the handshake cannot ask for one.
func forKnownClients(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "metrics need a client certificate of the CA that --ops-client-ca names", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// listenOps opens the address of probes and metrics, over TLS if asked for. Its
// certificate and CA are read again while it serves, until ctx ends; at the
// start an error is final.
func (s *server) listenOps(ctx context.Context) (net.Listener, error) {
	plain, err := net.Listen("tcp", s.OpsListen)
	if err != nil {
		return nil, fmt.Errorf("listening for probes and metrics: %w", err)
	}
	if s.OpsCertDir == "" {
		return plain, nil
	}
	c, err := s.opsTLS(ctx)
	if err != nil {
		_ = plain.Close()
		return nil, err
	}
	return tls.NewListener(plain, c), nil
}

func (s *server) opsTLS(ctx context.Context) (*tls.Config, error) {
	pair := &certs.Pair{Dir: s.OpsCertDir}
	if err := pair.Read(); err != nil {
		return nil, fmt.Errorf("reading certificate for probes and metrics: %w", err)
	}
	go reread(ctx, reloadEvery, s.Log, "certificate for probes and metrics", pair.Read)
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return pair.Certificate(), nil
	}}
	if s.OpsClientCA != "" {
		ca := &caFile{path: s.OpsClientCA}
		if err := ca.read(); err != nil {
			return nil, err
		}
		go reread(ctx, reloadEvery, s.Log, "CA of clients", ca.read)
		base := c.Clone()
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := base.Clone()
			now.ClientAuth, now.ClientCAs = tls.VerifyClientCertIfGiven, ca.pool.Load()
			return now, nil
		}
	}
	return c, nil
}

// caFile is a PEM bundle that is read again while it is used; one that has
// become wrong changes nothing.
type caFile struct {
	path string
	pool atomic.Pointer[x509.CertPool]
}

func (f *caFile) read() error {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("reading CA of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return fmt.Errorf("reading CA of clients %s: %w", f.path, errors.New("it holds no certificate in PEM"))
	}
	f.pool.Store(pool)
	return nil
}

// reread reads a file again and again until ctx ends, and says once what is wrong
// with it: the last good content stays in use.
func reread(ctx context.Context, every time.Duration, log *slog.Logger, what string, read func() error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := read()
		if err == nil {
			last = ""
		} else if msg := err.Error(); msg != last {
			last = msg
			log.Error("keeping last good "+what, "error", err)
		}
	}
}
