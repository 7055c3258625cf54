package cluster

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

//go:embed manifests
var manifests embed.FS

// patience is how long a start waits for one part of the box. It is long, since the machine may be busy or small; a part
// that has died is noticed at once.
const patience = 3 * time.Minute

var errNotRunning = errors.New("no box is running (start one with `make cluster-up`)")

// Options say who wants the box and where to tell of progress.
type Options struct {
	Checkout string    // the root of the working tree
	Log      io.Writer // a line for every step
	Force    bool      // down: also when another checkout owns the box
}

// Up starts the box, unless a healthy one of this checkout runs. What an earlier one left is cleaned first.
// It needs root, and the calling program must run RunInit when its first argument is "init".
func (b Box) Up(ctx context.Context, o Options) error {
	unlock, err := b.lock(ctx, o.Log)
	if err != nil {
		return err
	}
	defer unlock()

	old, err := b.readRecord()
	if err != nil {
		return err
	}
	runs := old != nil && old.Init.alive()
	if runs {
		if err := refuseForeign(old, o); err != nil {
			return err
		}
	}
	s := &startup{Box: b, Options: o, began: time.Now()}
	if err := s.ensureParts(ctx); err != nil {
		return err
	}
	if runs {
		err := b.healthy(ctx, old, s.fingerprint)
		if err == nil {
			fmt.Fprintf(o.Log, "the box runs already, since %s\n", old.Started.Format(time.DateTime))
			s.record = old
			return s.finish()
		}
		s.say("the box that runs is not good, starting anew: %v", err)
	}
	if err := b.clean(old); err != nil {
		return fmt.Errorf("cleaning up an earlier box: %w", err)
	}
	if err := s.run(ctx); err != nil {
		// The logs stay for the reader; everything that runs goes.
		if r, _ := b.readRecord(); r != nil {
			err = errors.Join(err, b.stop(r))
		}
		return err
	}
	return nil
}

// refuseForeign returns an error if another checkout that still exists owns the box.
func refuseForeign(r *record, o Options) error {
	if r.Owner == o.Checkout {
		return nil
	}
	if _, err := os.Stat(r.Owner); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("the box belongs to the checkout %s, not to %s (there is one box for all: `make cluster-down` there, or `cluster down --force` here)", r.Owner, o.Checkout)
}

// startup is one run of Up.
type startup struct {
	Box
	Options
	began       time.Time
	parts       build.Parts
	fingerprint string
	record      *record
	mu          sync.Mutex // one line at a time
}

func (s *startup) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.Log, "%6.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// run starts a box in an empty state folder.
func (s *startup) run(ctx context.Context) error {
	if err := s.prepare(); err != nil {
		return err
	}
	if err := s.startInit(); err != nil {
		return fmt.Errorf("starting the box's first process: %w", err)
	}
	first, second := s.daemons()
	if err := s.start(first); err != nil {
		return err
	}
	s.say("etcd, containerd and kube-apiserver started")
	images := make(chan error, 1)
	go func() { images <- s.loadImages(ctx) }()
	if err := s.wait(ctx, "the API server", patience, func(ctx context.Context) error {
		return s.quietKubectl(ctx, "get", "--raw", "/readyz")
	}); err != nil {
		return err
	}
	if err := s.start(second); err != nil {
		return err
	}
	s.say("controller-manager, scheduler, kube-proxy and kubelet started")
	if err := <-images; err != nil {
		return err
	}
	if err := s.addons(ctx); err != nil {
		return err
	}
	s.record.Ready = true
	if err := s.writeRecord(s.record); err != nil {
		return err
	}
	s.say("the box is ready")
	return s.finish()
}

// finish writes bin/kubectl and says how the box is used.
func (s *startup) finish() error {
	if err := s.writeWrapper(); err != nil {
		return fmt.Errorf("writing bin/kubectl: %w", err)
	}
	fmt.Fprint(s.Log, `
  bin/kubectl get pods -A            look into it
  bin/cluster exec -- COMMAND        run a command that can reach Services and pods
  make cluster-down                  stop it and leave nothing behind
`)
	return nil
}

// prepare writes everything that the daemons read.
func (s *startup) prepare() error {
	for _, dir := range []string{"bin", "log", "etc", "pki", "sysctl", "var/tmp", "var/log", "var/lib/etcd", "var/lib/vault"} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", s.path("var", "run")); err != nil {
		return err
	}
	for _, dir := range []string{"etcd", "vault"} {
		if err := os.Chmod(s.path("var", "lib", dir), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chown(s.path("var", "lib", "vault"), vaultUser, vaultUser); err != nil {
		return err
	}
	for name, path := range s.parts {
		if err := os.Symlink(path, s.bin(name)); err != nil {
			return err
		}
	}
	if err := s.writePKI(); err != nil {
		return err
	}
	return s.writeSettings()
}

// startInit makes the box's namespaces and cgroup, in an order in which a crash at any point leaves a record of what is to
// be cleaned, or nothing.
func (s *startup) startInit() error {
	before, err := controllers("")
	if err != nil {
		return err
	}
	s.record = &record{Owner: s.Checkout, Started: time.Now(), Fingerprint: s.fingerprint, Controllers: before}
	if err := s.writeRecord(s.record); err != nil {
		return err
	}
	if err := makeCgroup(s.cgroup()); err != nil {
		return err
	}
	goAhead, word, err := os.Pipe()
	if err != nil {
		return err
	}
	defer goAhead.Close()
	defer word.Close()
	log, err := os.Create(s.log("init"))
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "init", s.dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{goAhead}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it if it ends while this program runs
	if s.record.Init, err = identify(cmd.Process.Pid); err != nil {
		return err
	}
	if err := s.writeRecord(s.record); err != nil {
		return err
	}
	if err := joinCgroup(s.cgroup(), cmd.Process.Pid); err != nil {
		return err
	}
	if _, err := word.Write([]byte{1}); err != nil {
		return err
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := s.supervisor("Processes", struct{}{}, new([]Process))
		switch {
		case err == nil:
			return nil
		case !s.record.Init.alive(), time.Since(start) > 10*time.Second:
			return fmt.Errorf("%w\n%s", err, s.logTail("init"))
		}
	}
}

func (s *startup) start(commands []Command) error {
	for _, c := range commands {
		if err := s.supervisor("Start", c, new(int)); err != nil {
			return err
		}
	}
	return nil
}

// wait calls try until it succeeds. It gives up when a daemon has died, when the time is up, or when the user stops it,
// and says now and then that it still waits.
func (s *startup) wait(ctx context.Context, what string, limit time.Duration, try func(context.Context) error) error {
	caller := ctx
	ctx, cancel := context.WithTimeout(caller, limit)
	defer cancel()
	retry := time.NewTicker(150 * time.Millisecond)
	defer retry.Stop()
	remind := time.NewTicker(10 * time.Second)
	defer remind.Stop()
	for {
		err := try(ctx)
		if caller.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(caller))
		}
		if err == nil {
			s.say("%s: ready", what)
			return nil
		}
		if dead := s.deadDaemon(); dead != nil {
			return fmt.Errorf("waiting for %s: %w", what, dead)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (logs are in %s)", what, err, s.path("log"))
		case <-remind.C:
			s.say("waiting for %s: %s", what, firstLine(err.Error()))
		case <-retry.C:
		}
	}
}

// waitPod is wait for something in a pod: if it fails, the warnings about the pod are part of the error.
func (s *startup) waitPod(ctx context.Context, what, namespace string, limit time.Duration, try func(context.Context) error) error {
	err := s.wait(ctx, what, limit, try)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	events, failure := s.kubectl(ctx, "get", "events", "-n", namespace, "--field-selector=type=Warning",
		"-o=custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message")
	if failure != nil {
		return err
	}
	text, _ := events.Output()
	return fmt.Errorf("%w\n%s", err, text)
}

// deadDaemon returns an error with the end of the log of a daemon that has ended, if there is one.
func (b Box) deadDaemon() error {
	var list []Process
	if err := b.supervisor("Processes", struct{}{}, &list); err != nil {
		return err
	}
	for _, p := range list {
		if !p.Running {
			return fmt.Errorf("%s %s; the end of %s:\n%s", p.Name, p.Exit, b.log(p.Name), b.logTail(p.Name))
		}
	}
	return nil
}

// logTail returns the last lines of a daemon's log, indented.
func (b Box) logTail(name string) string {
	data, err := os.ReadFile(b.log(name))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// healthy returns why a box that runs is not to be used, if so.
func (b Box) healthy(ctx context.Context, r *record, fingerprint string) error {
	if !r.Ready {
		return errors.New("its start was not finished")
	}
	if fingerprint != "" && r.Fingerprint != fingerprint {
		return errors.New("its parts have changed since")
	}
	if err := b.deadDaemon(); err != nil {
		return errors.New(firstLine(err.Error()))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"get", "--raw", "/readyz"},
		{"wait", "--for=condition=Ready", "--timeout=5s", "node/" + NodeName},
		{"wait", "--for=condition=Ready", "--timeout=5s", "-n", "vault", "pod/vault-0"},
	} {
		if err := b.quietKubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// fingerprintOf names what a box is made of: the binaries, whose paths change with their content, and this program, which
// holds their settings and the manifests.
func fingerprintOf(parts map[string]string) (string, error) {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		fmt.Fprintln(sum, name, parts[name])
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	defer program.Close()
	if _, err := io.Copy(sum, program); err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
