// Injector is the mutating admission webhook that gives pods their agent, and
// the same injection offline. On the PATH as kubectl-latchkey it is a plugin of
// kubectl.
//
// Exit codes: 0; 1 for bad input or a failure, with every problem on standard
// error; 2 for wrong usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, std cli.Streams) int {
	p := cli.Program{Name: program(), UsageCode: 2, Commands: []cli.Command{
		{Name: "serve", What: "answer admission requests", Run: serve},
		{Name: "render", What: "print what injection makes of manifests, without a cluster", Run: render},
		{Name: "check", What: "tell whether injection works in a cluster, and what to do", Run: checkCluster},
		{Name: "annotations", What: "print the annotations that pods can carry", Run: annotations},
		{Name: "version", What: "print the version", Run: func(_ context.Context, _ []string, std cli.Streams) error {
			_, err := fmt.Fprintln(std.Out, "injector", version.Version)
			return err
		}},
	}}
	return p.Run(ctx, args, std)
}

// program is what the user calls: kubectl runs a program of the name
// kubectl-latchkey as "kubectl latchkey".
func program() string {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-latchkey") {
		return "kubectl latchkey"
	}
	return "injector"
}

// newFlags begins a command's flags; what says how it is called and what for.
func newFlags(name, what string, std cli.Streams) *flag.FlagSet {
	return cli.Program{Name: program()}.Flags(name, what, std, nil)
}
