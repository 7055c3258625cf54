// Command agent runs beside an app in its pod: it logs in to Vault with the
// pod's ServiceAccount and publishes secrets as files.
//
//	agent [--config FILE]          run until SIGTERM
//	agent --once [--config FILE]   publish the files once and end
//	agent wait [--timeout D]       hold the app back until the first files are out
//	agent wait --open              make way for an app that waits for them itself
//	agent ready                    exit 0 once they are, else print why not
//	agent version
//
// Without --config the configuration comes from the environment variable
// LATCHKEY_CONFIG, which the injector sets; lifecycle init in it is --once. The
// exit code is 0 on SIGTERM or when --once is done, 1 when the files could not
// be published, and 2 for a bad configuration.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent"
	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/version"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	if err := hideMemory(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(exitFailed)
	}
	// Small rather than fast: the heap is a few hundred KiB and the work comes
	// in short bursts minutes apart.
	keepPagesSmall()
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(min(2, runtime.GOMAXPROCS(0)))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command runs one of the commands and returns its exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		name, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("agent "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("volume", config.VolumeDir, "the `directory` that agent and app share")
	file, last, timeout, once, open := "", "", time.Duration(0), false, false
	switch name {
	case "":
		flags.StringVar(&file, "config", "", "read the configuration from this `file` instead of the environment")
		flags.BoolVar(&once, "once", false, "publish the files once and end, whatever the configuration's lifecycle")
		flags.StringVar(&last, "termination-log", config.TerminationLog, "write the reason of a failure to this `file`")
	case "wait":
		flags.DurationVar(&timeout, "timeout", 3*time.Second, "the longest time to wait")
		flags.BoolVar(&open, "open", false, "let the app start before there are files, instead of waiting for them")
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "agent %s: unexpected argument %q\n", name, flags.Arg(0))
		return exitUsage
	}
	if name == "version" {
		fmt.Fprintln(stdout, version.Version)
		return 0
	}
	run, known := map[string]func(*volume.Volume) int{
		"":      func(v *volume.Volume) int { return serve(ctx, v, file, last, once, stderr) },
		"wait":  func(v *volume.Volume) int { return wait(ctx, v, timeout, open, stderr) },
		"ready": func(v *volume.Volume) int { return ready(v, stdout) },
	}[name]
	if !known {
		fmt.Fprintf(stderr, "agent: unknown command %q (wait, ready, version, or none to run)\n", name)
		return exitUsage
	}
	v, err := volume.Open(*dir)
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return exitFailed
	}
	defer v.Close()
	return run(v)
}

func serve(ctx context.Context, v *volume.Volume, file, terminationLog string, once bool, stderr io.Writer) int {
	log := newLogger(config.Log{}, stderr)
	fail := func(code int, err error) int {
		log.Error("ended", "reason", err)
		agent.LastWords(terminationLog, err)
		return code
	}
	// Whatever else is wrong: without the gate the app would start.
	if err := v.Guard(); err != nil {
		return fail(exitFailed, err)
	}
	c, err := readConfig(file)
	if err != nil {
		return fail(exitUsage, err)
	}
	log = newLogger(c.Log, stderr)
	if once {
		c.Lifecycle = config.Init
	}
	a, err := agent.New(c, v, log)
	if err != nil {
		return fail(exitUsage, fmt.Errorf("reading the templates: %w", err))
	}
	if err := a.Run(ctx); err != nil {
		return fail(exitFailed, err)
	}
	return 0
}

func wait(ctx context.Context, v *volume.Volume, timeout time.Duration, open bool, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	hook := func() error { return agent.Wait(ctx, v) }
	if open {
		hook = v.OpenAtOnce
	}
	if err := hook(); err != nil {
		fmt.Fprintln(stderr, "agent wait:", err)
		return exitFailed
	}
	return 0
}

func ready(v *volume.Volume, stdout io.Writer) int {
	ok, reason := agent.Ready(v)
	if !ok {
		fmt.Fprintln(stdout, reason)
		return exitFailed
	}
	return 0
}

func readConfig(file string) (*config.Agent, error) {
	var data []byte
	var err error
	if file != "" {
		data, err = os.ReadFile(file)
	} else {
		data, err = config.FromEnv(os.LookupEnv)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return config.Decode(data)
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	// Decode has checked it; an empty one is info.
	_ = level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
