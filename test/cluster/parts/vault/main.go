// Command vault is a small Vault server for the tests: HashiCorp's own core and HTTP API with only the plugins that the
// suites use, so that it compiles in minutes and starts in well under a second.
//
// It is one plain node, unless -raft makes it one of several, whose standbys answer 307. Auth methods: token, kubernetes, jwt, approle, cert. Secrets engines: kv (1 and 2), pki, transit,
// database (with the PostgreSQL plugin), and Vault's built-in ones. Audit device: file (file_path=stdout is allowed).
//
// The data directory survives kill -9. With -unseal-key-file the server unseals itself after a start, as soon as it is
// initialised and the file holds a key, and leaves a later seal through the API alone. It never initialises itself.
//
// Vault is under the Business Source License: this program serves tests and the demo and is never shipped.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/audit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/logging"
	"github.com/hashicorp/vault/vault"

	"github.com/latchkey-dev/latchkey/test/cluster/parts/vault/storage"
)

// options are the command line.
type options struct {
	listen        string
	apiAddr       string
	tlsCert       string
	tlsKey        string
	data          string
	logLevel      string
	unsealKeyFile string
	raft          string
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", ":8200", "`address` to listen on")
	flag.StringVar(&o.apiAddr, "api-addr", "", "`URL` at which clients reach this server")
	flag.StringVar(&o.tlsCert, "tls-cert", "", "PEM `file` with the serving certificate; plain HTTP without it")
	flag.StringVar(&o.tlsKey, "tls-key", "", "PEM `file` with the key of -tls-cert")
	flag.StringVar(&o.data, "data", "", "`directory` of the storage (required)")
	flag.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info, warn or error")
	flag.StringVar(&o.unsealKeyFile, "unseal-key-file", "", "`file` with the base64 unseal key; it may appear later")
	flag.StringVar(&o.raft, "raft", "", "`address` (IP:port) for the other nodes of a raft cluster; one plain node without it")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func (o options) validate() error {
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.data == "":
		return errors.New("-data is missing: name the directory of the storage")
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return errors.New("-tls-cert and -tls-key go together: only one is set")
	case o.raft != "" && o.apiAddr == "":
		return errors.New("-raft needs -api-addr: a standby has to say where the active node is")
	case hclog.LevelFromString(o.logLevel) == hclog.NoLevel:
		return fmt.Errorf("-log-level %q is unknown: use trace, debug, info, warn or error", o.logLevel)
	}
	return nil
}

// run serves until ctx ends. The listener is up before Vault is unsealed, because initialising and unsealing are calls.
func run(ctx context.Context, o options) error {
	if err := o.validate(); err != nil {
		return err
	}
	logger := logging.NewVaultLogger(hclog.LevelFromString(o.logLevel))

	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	config := &vault.CoreConfig{
		RedirectAddr:       o.apiAddr,
		LogicalBackends:    logicalBackends,
		CredentialBackends: credentialBackends,
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		BuiltinRegistry:    registry{},
		DisableMlock:       true,
		Logger:             logger,
		LogLevel:           o.logLevel,
		ClusterName:        "latchkey-test",
	}
	if o.raft != "" {
		if err := openRaft(config, o, logger); err != nil {
			return err
		}
	} else {
		store, err := storage.Open(filepath.Join(o.data, "vault.db"))
		if err != nil {
			return err
		}
		defer store.Close()
		config.Physical, config.StorageType = store, "bbolt"
	}
	core, err := vault.NewCore(config)
	if err != nil {
		return fmt.Errorf("making the core: %w", err)
	}
	defer core.ShutdownWait()

	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", o.listen, err)
	}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{Address: o.listen},
	})
	if o.raft != "" {
		if err := joinCluster(core, o.raft, handler); err != nil {
			return err
		}
		handler = redirecting(handler)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.Named("http").StandardLogger(nil),
	}

	served := make(chan error, 1)
	go func() { served <- serve(server, listener, o) }()
	logger.Info("listening", "address", listener.Addr().String(), "tls", o.tlsCert != "")
	if o.unsealKeyFile != "" {
		go unsealOnce(ctx, core, o.unsealKeyFile, logger.Named("unseal"))
	}

	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		server.Close()
	}
	return nil
}

// serve reads the certificate at every handshake, so that a rotated file is served without a signal.
func serve(server *http.Server, listener net.Listener, o options) error {
	if o.tlsCert == "" {
		return server.Serve(listener)
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
		if err != nil {
			return nil, fmt.Errorf("loading the certificate %s: %w", o.tlsCert, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return err
	}
	server.TLSConfig = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
		ClientAuth:     tls.RequestClientCert, // as Vault's own listener does, for the auth method cert
	}
	return server.ServeTLS(listener, "", "")
}
