package main

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/latchkey-dev/latchkey/internal/mutate/server"
)

func serve(ctx context.Context, args []string, std streams) error {
	var o server.Options
	fs := newFlags("serve", "serve --cert-dir DIR [FLAGS]\nAnswers admission requests on /mutate.", std)
	fs.StringVar(&o.ConfigFile, "config", "", "the operator's configuration, a YAML `FILE`; it is read again when it changes (default: built in)")
	fs.StringVar(&o.Listen, "listen", ":8443", "`ADDRESS` of the webhook")
	fs.StringVar(&o.CertDir, "cert-dir", "", "`DIR` with tls.crt and tls.key; they may come later, and change")
	fs.StringVar(&o.OpsListen, "ops-listen", ":8080", "`ADDRESS` of /livez, /readyz and /metrics, plain HTTP")
	fs.DurationVar(&o.Drain, "drain", 5*time.Second, "`DURATION` of serving on after SIGTERM, while not ready")
	level := fs.String("log-level", "info", "debug, info, warn or error")
	format := fs.String("log-format", "json", "json or text")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if o.CertDir == "" {
		return wrongUsage(fs, "--cert-dir is missing (the directory with tls.crt and tls.key)")
	}
	var err error
	if o.Log, err = logger(fs, std.err, *level, *format); err != nil {
		return err
	}
	// The libraries log in the same place and form.
	slog.SetDefault(o.Log)
	ctrllog.SetLogger(logr.FromSlogHandler(o.Log.Handler()))
	klog.SetSlogLogger(o.Log)
	return server.Run(ctx, o)
}

func logger(fs *flag.FlagSet, w io.Writer, level, format string) (*slog.Logger, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[level]
	if !ok {
		return nil, wrongUsage(fs, "--log-level is %q (debug, info, warn, error)", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, wrongUsage(fs, "--log-format is %q (json, text)", format)
}
