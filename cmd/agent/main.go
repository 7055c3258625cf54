// Command agent runs beside an app in its pod: it logs in to Vault with the
// pod's ServiceAccount and publishes secrets as files.
//
//	agent [--config FILE]      run until SIGTERM
//	agent wait [--timeout D]   hold the app back until the first files are out
//	agent ready                exit 0 once they are, else print why not
//	agent version
//
// Without --config the configuration comes from the environment variable
// LATCHKEY_CONFIG, which the injector sets. The exit code is 0 on SIGTERM, 1
// when the files could not be published, and 2 for a bad configuration.
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
	file, last, timeout := "", "", time.Duration(0)
	switch name {
	case "":
		flags.StringVar(&file, "config", "", "read the configuration from this `file` instead of the environment")
		flags.StringVar(&last, "termination-log", config.TerminationLog, "write the reason of a failure to this `file`")
	case "wait":
		flags.DurationVar(&timeout, "timeout", 3*time.Second, "the longest time to wait")
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
		"":      func(v *volume.Volume) int { return serve(ctx, v, file, last, stderr) },
		"wait":  func(v *volume.Volume) int { return wait(ctx, v, timeout, stderr) },
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

func serve(ctx context.Context, v *volume.Volume, file, terminationLog string, stderr io.Writer) int {
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
	a, err := agent.New(c, v, log)
	if err != nil {
		return fail(exitUsage, fmt.Errorf("reading the templates: %w", err))
	}
	if err := a.Run(ctx); err != nil {
		return fail(exitFailed, err)
	}
	return 0
}

func wait(ctx context.Context, v *volume.Volume, timeout time.Duration, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := agent.Wait(ctx, v); err != nil {
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
