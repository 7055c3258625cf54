package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/latchkey-dev/latchkey/internal/authconfig"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/cli"
)

// settings are those of a command beside the configuration.
type settings struct {
	config, kubeconfig, namespace string
	opsListen                     string
	level, format                 string
}

func (s *settings) bind(fs *flag.FlagSet, name string) {
	fs.StringVar(&s.config, "config", "", "the configuration, a YAML `FILE`")
	s.bindCluster(fs)
	fs.StringVar(&s.namespace, "namespace", "", "authconfig's own `NAMESPACE` (default: the pod's, $POD_NAMESPACE, or the kubeconfig's)")
	if name == "serve" {
		fs.StringVar(&s.opsListen, "ops-listen", ":8080", "`ADDRESS` of /livez, /readyz and /metrics")
	}
	level, format := "info", "json"
	if name != "serve" {
		level, format = "warn", "text" // beside what is printed for a person
	}
	fs.StringVar(&s.level, "log-level", level, "debug, info, warn or error")
	fs.StringVar(&s.format, "log-format", format, "json or text")
}

func (s *settings) bindCluster(fs *flag.FlagSet) {
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: in a pod its own ServiceAccount)")
}

// options reads a command's flags, the environment and the file.
func (c commands) options(name, what string, args []string, std cli.Streams) (authconfig.Options, error) {
	var o authconfig.Options
	var s settings
	fresh := func(config *authconfig.Config) (*flag.FlagSet, *string) {
		s = settings{}
		fs := c.Flags(name, what, std, func(flag string) string { return "$" + authconfig.EnvName(flag) })
		s.bind(fs, name)
		config.Bind(fs)
		return fs, &s.config
	}
	config, fs, err := authconfig.Load(args, c.environ, fresh)
	if err != nil {
		return o, err
	}
	o.Config, o.OpsListen = config, s.opsListen
	if o.Log, err = cli.Logger(fs, std.Err, s.level, s.format); err != nil {
		return o, err
	}
	cli.LogLibraries(o.Log)
	if o.Kube, o.Host, o.Namespace, err = s.cluster(c.environ); err != nil {
		return o, err
	}
	if o.Namespace == "" {
		return o, errors.New("authconfig's own namespace is unknown: say it with --namespace or $" + authconfig.EnvName("namespace"))
	}
	var sources []string
	for _, s := range config.Sources {
		sources = append(sources, s.String())
	}
	o.Log.Info("configuration", slog.GroupAttrs("settings", said(fs)...), "sources", sources)
	return o, nil
}

// said are the flags that are not as they are by default, wherever that was said.
// None of them is secret: those are in files.
func said(fs *flag.FlagSet) []slog.Attr {
	defaults := flag.NewFlagSet("", flag.ContinueOnError)
	authconfig.DefaultConfig().Bind(defaults)
	var attrs []slog.Attr
	fs.VisitAll(func(f *flag.Flag) {
		value, usual := f.Value.String(), f.DefValue
		if d := defaults.Lookup(f.Name); d != nil {
			usual = d.DefValue
		}
		if value != usual && value != "" {
			attrs = append(attrs, slog.String(f.Name, plan.Brief(value)))
		}
	})
	return attrs
}

// cluster says how the API server is reached, what Vault may call it, and which
// namespace is ours.
func (s *settings) cluster(environ func(string) string) (c *rest.Config, host, namespace string, err error) {
	namespace = cmp.Or(s.namespace, environ("POD_NAMESPACE"))
	if s.kubeconfig == "" {
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, "", "", fmt.Errorf("finding the API server: %w (elsewhere than in a pod: --kubeconfig or $%s)", err, authconfig.EnvName("kubeconfig"))
		}
		if namespace == "" {
			name, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
			if err != nil {
				return nil, "", "", fmt.Errorf("finding the pod's namespace (or say it with --namespace): %w", err)
			}
			namespace = strings.TrimSpace(string(name))
		}
		// By its name, since Vault may be in another network of the same cluster.
		return c, "https://kubernetes.default.svc", namespace, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(s.kubeconfig)}
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	if c, err = loaded.ClientConfig(); err != nil {
		return nil, "", "", fmt.Errorf("reading kubeconfig %s: %w", s.kubeconfig, err)
	}
	if namespace == "" {
		if name, _, err := loaded.Namespace(); err == nil && name != "default" {
			namespace = name
		}
	}
	return c, c.Host, namespace, nil
}
