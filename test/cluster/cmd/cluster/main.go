// Command cluster starts and stops a real Kubernetes in a box, and runs commands that can reach it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/latchkey-dev/latchkey/test/cluster"
)

const usage = `usage: cluster COMMAND

  up                  start the box; when it runs already, say so
  down [--force]      stop it and leave nothing behind; --force: also when another checkout started it
  status              say whether it runs, whose it is, and how its daemons are
  exec -- CMD ARG…    run a command in the box's network, with the variables that the suites read
  kubectl ARG…        run kubectl with the administrator's rights
  load TAR…           load image archives into the box
  kill DAEMON         end a daemon (kubelet, containerd, …) with SIGKILL
  start DAEMON        start a daemon that has ended
  add PART…           build programs that up leaves out (cert-manager, vault-full) and put them beside the others
  postgres up         start PostgreSQL in the box; its password is in the state folder
  env                 print the variables that exec sets

With LATCHKEY_TEST_KUBECONFIG set, the suites run on the cluster that it names: up, load and down then do nothing.
`

// A usageError is the caller's mistake: exit code 2.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	syscall.Umask(0o022) // what the box writes is read by daemons and containers of other users
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(2)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		fmt.Print(usage)
		return nil
	}
	command, args := args[0], args[1:]
	if command == "init" { // the box's first process, started by up
		if len(args) != 1 {
			return usageError{errors.New("init is not for people")}
		}
		return cluster.RunInit(args[0])
	}
	box, err := cluster.DefaultBox()
	if err != nil {
		return err
	}
	if external := os.Getenv(cluster.EnvKubeconfig); external != "" && external != box.Kubeconfig() {
		return runExternal(command, args, external)
	}
	if err := needRoot(command); err != nil {
		return err
	}
	switch command {
	case "up", "down":
		return upDown(ctx, box, command, args)
	case "status":
		return box.Status(ctx, os.Stdout)
	case "exec":
		return execCommand(args, box.Exec)
	case "kubectl":
		return box.Kubectl(ctx, args)
	case "load":
		for _, file := range args {
			if err := box.Load(ctx, file); err != nil {
				return err
			}
			fmt.Println("loaded", file)
		}
		return nil
	case "kill", "start":
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s wants the name of one daemon", command)}
		}
		if command == "kill" {
			return box.Kill(args[0])
		}
		return box.Start(args[0])
	case "add":
		o := cluster.Options{Log: os.Stdout}
		if o.Checkout, err = checkout(); err != nil {
			return err
		}
		return box.Add(ctx, o, args)
	case "postgres":
		if !slices.Equal(args, []string{"up"}) {
			return usageError{errors.New("postgres wants the word up")}
		}
		return box.StartPostgres(ctx, cluster.Options{Log: os.Stdout})
	case "env":
		for _, variable := range box.Env() {
			fmt.Println("export", variable)
		}
		return nil
	}
	return usageError{fmt.Errorf("unknown command %q (`cluster help` lists them)", command)}
}

func upDown(ctx context.Context, box cluster.Box, command string, args []string) error {
	o := cluster.Options{Log: os.Stdout}
	for _, arg := range args {
		if arg != "--force" || command != "down" {
			return usageError{fmt.Errorf("unknown argument %q of %s", arg, command)}
		}
		o.Force = true
	}
	var err error
	if o.Checkout, err = checkout(); err != nil {
		return err
	}
	if command == "down" {
		return box.Down(ctx, o)
	}
	return box.Up(ctx, o)
}

// runExternal serves the Makefile where the user has a cluster of their own.
func runExternal(command string, args []string, kubeconfig string) error {
	switch command {
	case "exec":
		return execCommand(args, func(argv []string) error { return cluster.Exec(argv, os.Environ()) })
	case "up", "down":
		fmt.Printf("%s names the cluster %s: the box is left alone\n", cluster.EnvKubeconfig, kubeconfig)
		return nil
	case "add": // another cluster has what its owner gave it
		return nil
	case "load":
		fmt.Printf("not loaded into the cluster of %s, which must have them: %s\n", kubeconfig, strings.Join(args, " "))
		return nil
	}
	return usageError{fmt.Errorf("%s is for the box, and %s names another cluster", command, cluster.EnvKubeconfig)}
}

func execCommand(args []string, run func([]string) error) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return usageError{errors.New("exec wants a command")}
	}
	return run(args)
}

// needRoot prints the line to type instead.
func needRoot(command string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	line := "sudo " + strings.Join(os.Args, " ")
	if command == "up" || command == "down" {
		line = "sudo make cluster-" + command
	}
	// sudo has a PATH of its own, and Go is often not on it.
	if tool, err := exec.LookPath("go"); err == nil && !slices.Contains(strings.Split("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ":"), filepath.Dir(tool)) {
		line = strings.Replace(line, "sudo", `sudo env "PATH=$PATH"`, 1)
	}
	return usageError{fmt.Errorf("namespaces and cgroups need root; run: %s", line)}
}

// checkout returns the root of the working tree that holds the working directory.
func checkout() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test", "cluster", "parts")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", usageError{fmt.Errorf("%s is not in a checkout of Latchkey", start)}
		}
	}
}
