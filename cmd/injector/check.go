package main

import (
	"context"
	"time"

	"github.com/latchkey-dev/latchkey/internal/check"
	"github.com/latchkey-dev/latchkey/internal/cli"
)

func checkCluster(ctx context.Context, args []string, std cli.Streams) error {
	var o check.Options
	fs := newFlags("check", "check [FLAGS]\nTells whether injection and logins work in a cluster, and what to do where they do not.", std)
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: as kubectl; in a pod its own ServiceAccount)")
	fs.StringVar(&o.Context, "context", "", "`CONTEXT` of the kubeconfig (default: its current one)")
	fs.StringVar(&o.Namespace, "namespace", "", "`NAMESPACE` whose pods and logins are tried (default: default)")
	fs.StringVar(&o.ServiceAccount, "service-account", "", "`NAME` of the ServiceAccount that logs in (default: default)")
	fs.StringVar(&o.Role, "role", "", "`ROLE` to log in with (default: that of the connection's template)")
	fs.StringVar(&o.ConfigFile, "config", "", "the operator's configuration, a YAML `FILE` (default: that of the injector in the cluster)")
	fs.StringVar(&o.Connection, "connection", "", "the `NAME` of the only connection to check (default: all)")
	fs.StringVar(&o.InjectorNamespace, "injector-namespace", "", "`NAMESPACE` of the injector (default: in its pod its own, else latchkey)")
	fs.DurationVar(&o.Timeout, "timeout", 30*time.Second, "`DURATION` of all checks together")
	if err := cli.Parse(fs, args); err != nil {
		return err
	}
	if o.Timeout <= 0 {
		return cli.WrongUsage(fs, "--timeout is %s (a duration above 0)", o.Timeout)
	}
	return check.Run(ctx, o, std.Out)
}
