// Authconfig keeps Vault's side in step with a cluster: the auth mount that pods
// log in to, what it reviews their tokens with, and its roles.
//
//	authconfig serve    keep it so
//	authconfig plan     print what there is to do
//	authconfig apply    do it once
//	authconfig policy   print the policy that it needs in Vault
//	authconfig keys     print the cluster's public keys
//	authconfig claims   print what a ServiceAccount token says
//	authconfig fields   print the fields of a role
//	authconfig version
//
// Each setting is a key of the file that --config names, a flag, and an
// environment variable; flags win over the environment, and that over the file.
// Exit codes: 0; 1 for an error, bad input or wrong usage; 2 where plan has found
// a difference.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program(os.Getenv).Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// program is authconfig with an environment.
func program(environ func(string) string) cli.Program {
	p := cli.Program{Name: "authconfig", UsageCode: 1}
	c := commands{&p, environ}
	p.Commands = []cli.Command{
		{Name: "serve", What: "keep the mount in step with the cluster", Run: c.serve},
		{Name: "plan", What: "print what there is to do; exit code 2 if there is anything", Run: c.plan},
		{Name: "apply", What: "do once what there is to do", Run: c.apply},
		{Name: "policy", What: "print the policy that authconfig needs in Vault", Run: c.policy},
		{Name: "keys", What: "print the public keys of the cluster's ServiceAccount tokens", Run: c.keys},
		{Name: "claims", What: "print what a ServiceAccount token says of itself", Run: c.claims},
		{Name: "fields", What: "print the fields that a role can have", Run: c.fields},
		{Name: "version", What: "print the version", Run: func(_ context.Context, _ []string, std cli.Streams) error {
			_, err := fmt.Fprintln(std.Out, "authconfig", version.Version)
			return err
		}},
	}
	return p
}

// commands are those of the program.
type commands struct {
	*cli.Program
	environ func(string) string
}
