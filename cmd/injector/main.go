// Injector is the mutating admission webhook that gives pods their agent, and
// the same injection offline. On the PATH as kubectl-latchkey it is a plugin of
// kubectl.
//
// Exit codes: 0; 1 for bad input or a failure, with every problem on standard
// error; 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/latchkey-dev/latchkey/internal/version"
)

const usage = `Usage: %[1]s COMMAND [FLAGS]

  serve        answer admission requests
  render       print what injection makes of manifests, without a cluster
  check        tell whether injection works in a cluster, and what to do
  annotations  print the annotations that pods can carry
  version      print the version

%[1]s COMMAND -h lists a command's flags.
`

// errUsage has been explained to the user already.
var errUsage = errors.New("wrong usage")

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, std streams) int {
	commands := map[string]func(context.Context, []string, streams) error{
		"serve":       serve,
		"render":      render,
		"check":       checkCluster,
		"annotations": annotations,
		"version": func(_ context.Context, _ []string, std streams) error {
			_, err := fmt.Fprintln(std.out, "injector", version.Version)
			return err
		},
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "help", "-h", "-help", "--help":
		fmt.Fprintf(std.out, usage, program())
		return 0
	}
	command, ok := commands[name]
	if !ok {
		if name != "" {
			fmt.Fprintf(std.err, "%s: unknown command %q\n\n", program(), name)
		}
		fmt.Fprintf(std.err, usage, program())
		return 2
	}
	switch err := command(ctx, args[1:], std); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintf(std.err, "%s: %v\n", program(), err)
		return 1
	}
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
func newFlags(name, what string, std streams) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(std.err)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: %s %s\n\n", program(), what)
		printFlags(fs)
	}
	return fs
}

// printFlags prints a line for each flag, so that a command's fit on a screen.
func printFlags(fs *flag.FlagSet) {
	w := tabwriter.NewWriter(fs.Output(), 0, 0, 2, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		value, what := flag.UnquoteUsage(f)
		name := "-" + f.Name
		if len(f.Name) > 1 {
			name = "-" + name
		}
		switch f.DefValue {
		case "", "false":
		default:
			what += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(name+" "+value), what)
	})
	_ = w.Flush() // as unwritten as any other text would be
}

// parseFlags parses the arguments of a command that takes flags alone.
func parseFlags(fs *flag.FlagSet, args []string) error {
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage // the flag package has said what is wrong
	case fs.NArg() > 0:
		return wrongUsage(fs, "unexpected argument %q", fs.Arg(0))
	}
	return nil
}

func wrongUsage(fs *flag.FlagSet, format string, args ...any) error {
	fmt.Fprintf(fs.Output(), "%s %s: %s\n", program(), fs.Name(), fmt.Sprintf(format, args...))
	return errUsage
}
