package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/certs"
	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/mutate/server"
)

func serve(ctx context.Context, args []string, std cli.Streams) error {
	var o server.Options
	var m certs.SelfManaged
	fs := newFlags("serve", "serve {--cert-dir DIR | --cert-secret NAME} [FLAGS]\nAnswers admission requests on /mutate.", std)
	fs.StringVar(&o.ConfigFile, "config", "", "the operator's configuration, a YAML `FILE`; it may change (default built in)")
	fs.StringVar(&o.Listen, "listen", ":8443", "`ADDRESS` of the webhook")
	fs.StringVar(&o.CertDir, "cert-dir", "", "`DIR` with tls.crt and tls.key; they may come later, and change")
	fs.StringVar(&m.Secret, "cert-secret", "", "keep a CA in the Secret `NAME`, a certificate signed by it, and the caBundle")
	fs.StringVar(&m.Service, "service", "latchkey-injector", "with --cert-secret: the Service that the certificate is for")
	fs.StringVar(&m.WebhookConfiguration, "webhook-configuration", "latchkey-injector", "with --cert-secret: the mutating one whose caBundle is kept")
	fs.StringVar(&m.Namespace, "namespace", "", "with --cert-secret: of Secret and Service (default $POD_NAMESPACE, else the pod's)")
	fs.DurationVar(&m.CADuration, "ca-duration", 365*24*time.Hour, "with --cert-secret: life of the CA, renewed after two thirds")
	fs.DurationVar(&m.LeafDuration, "leaf-duration", 7*24*time.Hour, "with --cert-secret: life of the certificate, renewed after two thirds")
	fs.StringVar(&o.OpsListen, "ops-listen", ":8080", "`ADDRESS` of /livez, /readyz and /metrics; plain HTTP without --ops-cert-dir")
	fs.StringVar(&o.OpsCertDir, "ops-cert-dir", "", "`DIR` with tls.crt and tls.key for the ops address; they may change")
	fs.StringVar(&o.OpsClientCA, "ops-client-ca", "", "PEM `FILE`: /metrics is for clients with a certificate of this CA; it may change")
	fs.DurationVar(&o.Drain, "drain", 10*time.Second, "`DURATION` of serving on after SIGTERM, while not ready")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	format := fs.String("log-format", "json", "json or text")
	if err := cli.Parse(fs, args); err != nil {
		return err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case o.CertDir == "" && m.Secret == "":
		return cli.WrongUsage(fs, "--cert-dir is missing (the directory with tls.crt and tls.key; or --cert-secret, to keep a CA of our own)")
	case o.CertDir != "" && m.Secret != "":
		return cli.WrongUsage(fs, "--cert-dir and --cert-secret are both given (one of them)")
	case o.OpsClientCA != "" && o.OpsCertDir == "":
		return cli.WrongUsage(fs, "--ops-client-ca needs --ops-cert-dir: clients show certificates over TLS alone")
	}
	for _, name := range []string{"service", "webhook-configuration", "namespace", "ca-duration", "leaf-duration"} {
		if given[name] && m.Secret == "" {
			return cli.WrongUsage(fs, "--%s needs --cert-secret", name)
		}
	}
	var err error
	if o.Log, err = cli.Logger(fs, std.Err, *level, *format); err != nil {
		return err
	}
	cli.LogLibraries(o.Log)
	if m.Secret != "" {
		if m.Config, err = certs.InCluster(); err != nil {
			return fmt.Errorf("keeping a CA in Secret %q: %w (use --cert-dir elsewhere)", m.Secret, err)
		}
		if m.Namespace = cmp.Or(m.Namespace, os.Getenv("POD_NAMESPACE")); m.Namespace == "" {
			if m.Namespace, err = podNamespace(); err != nil {
				return err
			}
		}
		o.SelfManaged = &m
	}
	return server.Run(ctx, o)
}

// podNamespace is the one that the kubelet says to any pod with an API token.
func podNamespace() (string, error) {
	name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return "", fmt.Errorf("finding the pod's namespace (or say it with --namespace or $POD_NAMESPACE): %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}
