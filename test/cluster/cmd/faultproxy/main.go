// Command faultproxy is a proxy before Vault whose faults are switched while it runs.
//
//	faultproxy -listen :8200 -cert tls.crt -key tls.key -target https://vault.vault.svc:8200 -target-ca ca.crt -control :8201
//	curl -X PUT -d '{"fault": "slow", "delay": "2s"}' http://HOST:8201/
//	curl -X PUT -d '{"fault": "status", "status": 429, "retryAfter": 1, "count": 3}' http://HOST:8201/
//	curl -X PUT -d '{"fault": ""}' http://HOST:8201/
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster/faultproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "faultproxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	listen := flag.String("listen", ":8200", "address of the proxy")
	control := flag.String("control", "127.0.0.1:8201", "address that shows and sets the mode, plain HTTP")
	cert := flag.String("cert", "", "file with the serving certificate; plain HTTP without it")
	key := flag.String("key", "", "file with its key")
	target := flag.String("target", "https://vault.vault.svc:8200", "URL of Vault")
	ca := flag.String("target-ca", "", "file with the CA of the target; the system's by default")
	flag.Parse()

	to, err := url.Parse(*target)
	if err != nil {
		return fmt.Errorf("reading -target: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{}}
	if *ca != "" {
		data, err := os.ReadFile(*ca)
		if err != nil {
			return fmt.Errorf("reading -target-ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(data) {
			return fmt.Errorf("reading -target-ca: %s holds no certificate", *ca)
		}
	}
	var pair *tls.Certificate
	if *cert != "" {
		loaded, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return fmt.Errorf("reading -cert and -key: %w", err)
		}
		pair = &loaded
	}
	p := faultproxy.New(*listen, pair, to, transport)
	if err := p.Start(); err != nil {
		return err
	}
	defer p.Close()
	server := &http.Server{Addr: *control, Handler: p.Control(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the control address: %w", err)
	}
	return nil
}
