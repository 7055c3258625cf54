package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
	"github.com/latchkey-dev/latchkey/test/harness"
)

const (
	starts  = 11               // of each agent in turn
	settle  = time.Second      // after the files are out, in which an agent's calls still belong to its start
	resting = 5                // agents of each kind that run side by side
	refresh = 30 * time.Second // of the secrets, for both
	rest    = 45 * time.Second // until the memory of the start is given back and the first refresh is over
	idle    = 2 * time.Minute  // in which CPU time is counted
)

// contender is one of the two agents that are compared.
type contender struct {
	name    string // its role in Vault
	program string
	// prepare writes its configuration for one run and returns its arguments.
	prepare func(dir string, v *vaultServer) ([]string, error)
	files   string // where the files appear, below the directory of a run

	size        int64
	start, work []time.Duration // until all files are there, and the CPU time of it
	calls       map[string]int  // to Vault by the last start
	steady      []usage
	idle        []time.Duration // CPU time of an hour
	reads       int             // of all resting agents in the time in which it was counted
}

// agents compares our agent with Vault's own: the same secrets of the same
// Vault, the same templates, the same login, side by side on loopback. It needs
// no cluster, and root only to count the open files of an agent that hides.
func agents(ctx context.Context) error {
	parts, err := build.Ensure(ctx, build.Options{Root: harness.Checkout(), Log: os.Stderr, Want: []string{"vault", "vault-full"}})
	if err != nil {
		return fmt.Errorf("building Vault: %w", err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-bench-") // a tmpfs, as in a pod
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	ours := &contender{name: "latchkey", program: filepath.Join(harness.Checkout(), "bin", "agent"), prepare: prepareOurs, files: "out"}
	theirs := &contender{name: "vault-agent", program: parts["vault-full"], prepare: prepareTheirs, files: "files"}
	both := []*contender{ours, theirs}

	v, err := startVault(ctx, parts["vault"], dir, ours.name, theirs.name)
	if err != nil {
		return err
	}
	defer v.stop()
	for i := range starts {
		fmt.Fprintf(os.Stderr, "starting agents, round %d of %d\n", i+1, starts)
		for _, c := range both {
			if err := c.measureStart(ctx, filepath.Join(dir, fmt.Sprintf("%s-%d", c.name, i)), v); err != nil {
				return err
			}
		}
	}
	if err := atRest(ctx, dir, v, both); err != nil {
		return err
	}
	return report(os.Stdout, ours, theirs)
}

// run is one process of an agent.
type run struct {
	*contender
	dir string
	cmd *exec.Cmd
}

// launch starts an agent in a new directory.
func (c *contender) launch(ctx context.Context, dir string, v *vaultServer) (*run, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	args, err := c.prepare(dir, v)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("making a log: %w", err)
	}
	defer log.Close() // the process has its own
	r := &run{contender: c, dir: dir, cmd: exec.CommandContext(ctx, c.program, args...)}
	r.cmd.Env = []string{"HOME=" + dir} // and nothing of VAULT_*
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	return r, nil
}

// wait returns when all files have their content.
func (r *run) wait(ctx context.Context) error {
	var missing []int
	for i := range secrets {
		missing = append(missing, i)
	}
	err := poll(ctx, time.Minute, time.Millisecond, "the files of "+r.name, func() error {
		missing = slices.DeleteFunc(missing, func(i int) bool {
			content, err := os.ReadFile(filepath.Join(r.dir, r.files, fileName(i)))
			return err == nil && string(content) == fileContent(i)
		})
		if len(missing) > 0 {
			return fmt.Errorf("%s is not there", fileName(missing[0]))
		}
		return nil
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(r.dir, "log"))
		return fmt.Errorf("%w: its log ends with\n%s", err, log[max(0, len(log)-2000):])
	}
	return nil
}

// end asks the agent to end, and makes it.
func (r *run) end() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	_ = r.cmd.Wait()
}

func (c *contender) measureStart(ctx context.Context, dir string, v *vaultServer) error {
	_, before, err := v.calls(c.name, 0)
	if err != nil {
		return err
	}
	began := time.Now()
	r, err := c.launch(ctx, dir, v)
	if err != nil {
		return err
	}
	defer r.end()
	if err := r.wait(ctx); err != nil {
		return err
	}
	c.start = append(c.start, time.Since(began))
	work, err := cpuTime(r.cmd.Process.Pid)
	if err != nil {
		return err
	}
	c.work = append(c.work, work)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	c.calls, _, err = v.calls(c.name, before)
	return err
}

// atRest measures agents that have nothing to do but to keep their files fresh.
func atRest(ctx context.Context, dir string, v *vaultServer, both []*contender) error {
	var running []*run
	for i := range resting {
		for _, c := range both {
			r, err := c.launch(ctx, filepath.Join(dir, fmt.Sprintf("%s-rest-%d", c.name, i)), v)
			if err != nil {
				return err
			}
			defer r.end()
			if err := r.wait(ctx); err != nil {
				return err
			}
			running = append(running, r)
		}
	}
	fmt.Fprintf(os.Stderr, "letting %d agents of each kind come to rest\n", resting)
	if err := pause(ctx, rest); err != nil {
		return err
	}
	_, since, err := v.calls("", 0)
	if err != nil {
		return err
	}
	before := make([]time.Duration, len(running))
	for i, r := range running {
		if before[i], err = cpuTime(r.cmd.Process.Pid); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "watching them for %s\n", idle)
	if err := pause(ctx, idle); err != nil {
		return err
	}
	for i, r := range running {
		after, err := cpuTime(r.cmd.Process.Pid)
		if err != nil {
			return err
		}
		r.idle = append(r.idle, (after-before[i])*time.Duration(time.Hour/idle))
		u, err := usageOf(r.cmd.Process.Pid)
		if err != nil {
			return err
		}
		r.steady = append(r.steady, u)
	}
	for _, c := range both {
		calls, _, err := v.calls(c.name, since)
		if err != nil {
			return err
		}
		if c.reads = calls["read"]; c.reads < resting*secrets {
			return fmt.Errorf("%d agents %s read %d secrets in %s, which is less than each of %d once: were they alive?", resting, c.name, c.reads, idle, secrets)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func fileName(i int) string { return fmt.Sprintf("app%d.env", i) }

// fileContent is what fileTemplate makes of a secret.
func fileContent(i int) string { return "USERNAME=app\nPASSWORD=" + password(i) + "\n" }

// fileTemplate is understood by both.
func fileTemplate(i int) string {
	return fmt.Sprintf("{{ with secret \"kv/data/bench/app%d\" }}USERNAME={{ .Data.data.username }}\nPASSWORD={{ .Data.data.password }}\n{{ end }}", i)
}

func prepareOurs(dir string, v *vaultServer) ([]string, error) {
	volume := filepath.Join(dir, "volume")
	if err := os.Mkdir(volume, 0o700); err != nil {
		return nil, fmt.Errorf("making a volume: %w", err)
	}
	if err := os.Symlink("volume/files", filepath.Join(dir, "out")); err != nil {
		return nil, fmt.Errorf("naming the files' directory: %w", err)
	}
	var files []map[string]string
	for i := range secrets {
		files = append(files, map[string]string{"path": fileName(i), "template": fileTemplate(i), "mode": "0400"})
	}
	config, err := json.Marshal(map[string]any{
		"version": 1, "refresh": refresh.String(), "startTimeout": "1m", "log": map[string]any{}, "files": files,
		"vault": map[string]any{"address": v.address, "caFile": v.ca, "auth": map[string]string{
			"method": "kubernetes", "mount": "kubernetes", "role": "latchkey", "audience": "vault", "tokenPath": v.jwt,
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the agent's configuration: %w", err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, fmt.Errorf("writing the agent's configuration: %w", err)
	}
	return []string{"--config", file, "--volume", volume, "--termination-log", filepath.Join(dir, "words")}, nil
}

func prepareTheirs(dir string, v *vaultServer) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "vault {\n  address = %q\n  ca_cert = %q\n}\n", v.address, v.ca)
	fmt.Fprintf(&b, "auto_auth {\n  method \"kubernetes\" {\n    config = {\n      role = \"vault-agent\"\n      token_path = %q\n    }\n  }\n}\n", v.jwt)
	fmt.Fprintf(&b, "template_config {\n  static_secret_render_interval = %q\n}\n", refresh)
	for i := range secrets {
		fmt.Fprintf(&b, "template {\n  contents = %q\n  destination = %q\n  perms = \"0400\"\n}\n", fileTemplate(i), filepath.Join(dir, "files", fileName(i)))
	}
	file := filepath.Join(dir, "config.hcl")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration of vault agent: %w", err)
	}
	return []string{"agent", "-config", file}, nil
}

// describe names calls and their numbers, sorted.
func describe(calls map[string]int) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(calls)) {
		parts = append(parts, fmt.Sprintf("%d %s", calls[kind], kind))
	}
	return strings.Join(parts, ", ")
}
