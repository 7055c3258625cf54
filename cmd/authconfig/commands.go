package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig"
	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/claims"
	"github.com/latchkey-dev/latchkey/internal/cli"
)

func (c commands) serve(ctx context.Context, args []string, std cli.Streams) error {
	o, err := c.options("serve", "serve [FLAGS]\nKeeps Vault's auth mount in step with the cluster.", args, std)
	if err != nil {
		return err
	}
	return authconfig.Serve(ctx, o)
}

// errDiffers is told by the exit code alone.
type errDiffers struct{}

func (errDiffers) Error() string { return "there is something to do" }

// ExitCode is for scripts.
func (errDiffers) ExitCode() int { return 2 }

func (c commands) plan(ctx context.Context, args []string, std cli.Streams) error {
	o, err := c.options("plan", "plan [FLAGS]\nPrints what there is to do, and changes nothing. Exit code 2 if there is anything.", args, std)
	if err != nil {
		return err
	}
	differs, err := authconfig.Plan(ctx, o, std.Out)
	if err == nil && differs {
		err = errDiffers{}
	}
	return err
}

func (c commands) apply(ctx context.Context, args []string, std cli.Streams) error {
	o, err := c.options("apply", "apply [FLAGS]\nDoes once what there is to do.", args, std)
	if err != nil {
		return err
	}
	return authconfig.Apply(ctx, o, std.Out)
}

func (c commands) policy(_ context.Context, args []string, std cli.Streams) error {
	mount := authconfig.DefaultConfig().Mount.Path
	if env := c.environ(authconfig.EnvName("mount")); env != "" {
		mount = env
	}
	fs := c.Flags("policy", "policy [FLAGS]\nPrints the policy that authconfig needs in Vault.", std, nil)
	fs.StringVar(&mount, "mount", mount, "`PATH` of the auth mount that is kept")
	if err := cli.Parse(fs, args); err != nil {
		return err
	}
	if err := vault.CheckMount(mount); err != nil {
		return fmt.Errorf("--mount: %w", err)
	}
	return write(std.Out, vault.Policy(mount))
}

func (c commands) keys(ctx context.Context, args []string, std cli.Streams) error {
	s := settings{kubeconfig: c.environ(authconfig.EnvName("kubeconfig"))}
	fs := c.Flags("keys", "keys [FLAGS]\nPrints the public keys of the cluster's ServiceAccount tokens, as PEM.", std, nil)
	kubeconfig := s.kubeconfig
	s.bindCluster(fs)
	if err := cli.Parse(fs, args); err != nil {
		return err
	}
	if s.kubeconfig == "" {
		s.kubeconfig = kubeconfig
	}
	config, _, namespace, err := s.cluster(c.environ)
	if err != nil {
		return err
	}
	client, err := cluster.New(config, cluster.Settings{Namespace: namespace})
	if err != nil {
		return err
	}
	keys, err := client.Keys(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		b.WriteString(strings.TrimSpace(keys[id]) + "\n")
	}
	return write(std.Out, b.String())
}

func (c commands) claims(_ context.Context, args []string, std cli.Streams) error {
	fs := c.Flags("claims", "claims [FILE]\nPrints what a ServiceAccount token says of itself: that of the pod, of a file, or (-) of standard input.\nNothing of it is verified, and nothing is printed that could be used to log in.", std, nil)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return cli.ErrUsage
	}
	if fs.NArg() > 1 {
		return cli.WrongUsage(fs, "unexpected argument %q", fs.Arg(1))
	}
	file := "/var/run/secrets/kubernetes.io/serviceaccount/token"
	if fs.NArg() == 1 {
		file = fs.Arg(0)
	}
	var jwt []byte
	var err error
	if file == "-" {
		jwt, err = io.ReadAll(std.In)
	} else {
		jwt, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	read := claims.Read(strings.TrimSpace(string(jwt)))
	if read.Err != nil {
		return read.Err
	}
	out, err := json.MarshalIndent(struct {
		Audience       []string `json:"aud"`
		Issuer         string   `json:"iss"`
		Subject        string   `json:"sub"`
		Expires        string   `json:"exp"`
		Namespace      string   `json:"namespace"`
		ServiceAccount string   `json:"serviceAccount"`
	}{read.Audience, read.Issuer, read.Subject, read.Expires.UTC().Format(time.RFC3339), read.Namespace, read.ServiceAccount}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the claims: %w", err)
	}
	return write(std.Out, string(out)+"\n")
}

func write(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}
