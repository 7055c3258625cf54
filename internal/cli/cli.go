// Package cli is how the programs of several commands are called.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// ErrUsage has been explained to the user already.
var ErrUsage = errors.New("wrong usage")

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Command is one of a program's.
type Command struct {
	Name, What string
	Run        func(ctx context.Context, args []string, std Streams) error
}

// Program is what the user calls.
type Program struct {
	Name string
	// UsageCode is the exit code for wrong usage.
	UsageCode int
	// Commands in the order in which they are told.
	Commands []Command
}

// Run runs one of the commands. It returns the exit code: 0, UsageCode, or 1 for
// an error, which it prints; an error with a method ExitCode prints nothing and
// says its own.
func (p Program) Run(ctx context.Context, args []string, std Streams) int {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "help", "-h", "-help", "--help":
		p.usage(std.Out)
		return 0
	}
	for _, c := range p.Commands {
		if c.Name == name {
			return p.code(c.Run(ctx, args[1:], std), std.Err)
		}
	}
	if name != "" {
		fmt.Fprintf(std.Err, "%s: unknown command %q\n\n", p.Name, name)
	}
	p.usage(std.Err)
	return p.UsageCode
}

func (p Program) code(err error, w io.Writer) int {
	var own interface{ ExitCode() int }
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, ErrUsage):
		return p.UsageCode
	case errors.As(err, &own):
		return own.ExitCode()
	}
	fmt.Fprintf(w, "%s: %v\n", p.Name, err)
	return 1
}

func (p Program) usage(to io.Writer) {
	fmt.Fprintf(to, "Usage: %s COMMAND [FLAGS]\n\n", p.Name)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, c := range p.Commands {
		fmt.Fprintf(w, "  %s\t%s\n", c.Name, c.What)
	}
	_ = w.Flush() // as unwritten as any other text would be
	fmt.Fprintf(to, "\n%s COMMAND -h lists a command's flags.\n", p.Name)
}

// Flags begins a command's flags; what says how it is called and what for. Notes,
// if it is not nil, is told beside each flag.
func (p Program) Flags(name, what string, std Streams, notes func(flag string) string) *flag.FlagSet {
	fs := flag.NewFlagSet(p.Name+" "+name, flag.ContinueOnError)
	fs.SetOutput(std.Err)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: %s %s\n\n", p.Name, what)
		printFlags(fs, notes)
	}
	return fs
}

// printFlags prints a line for each flag, so that a command's fit on a screen.
func printFlags(fs *flag.FlagSet, notes func(string) string) {
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
		if notes != nil {
			what = notes(f.Name) + "\t" + what
		}
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(name+" "+value), what)
	})
	_ = w.Flush() // as unwritten as any other text would be
}

// Parse parses the arguments of a command that takes flags alone.
func Parse(fs *flag.FlagSet, args []string) error {
	// A screen full of flags would hide what is wrong.
	usage := fs.Usage
	fs.Usage = func() {}
	err := fs.Parse(args)
	fs.Usage = usage
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return err
	case err != nil: // which the flag package has told
		fmt.Fprintf(fs.Output(), "%s -h lists the flags\n", fs.Name())
		return ErrUsage
	case fs.NArg() > 0:
		return WrongUsage(fs, "unexpected argument %q", fs.Arg(0))
	}
	return nil
}

// WrongUsage says what is wrong and is ErrUsage.
func WrongUsage(fs *flag.FlagSet, format string, args ...any) error {
	fmt.Fprintf(fs.Output(), "%s: %s\n", fs.Name(), fmt.Sprintf(format, args...))
	return ErrUsage
}

// Logger is the log that the flags --log-level and --log-format ask for.
func Logger(fs *flag.FlagSet, w io.Writer, level, format string) (*slog.Logger, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[level]
	if !ok {
		return nil, WrongUsage(fs, "--log-level is %q (debug, info, warn, error)", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, WrongUsage(fs, "--log-format is %q (json, text)", format)
}

// LogLibraries has the libraries log in the same place and form.
func LogLibraries(log *slog.Logger) {
	slog.SetDefault(log)
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
}
