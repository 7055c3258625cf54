package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/cluster/build"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const (
	starts  = 11               // of each agent in turn
	settle  = time.Second      // after the files are out, in which an agent's calls still belong to its start
	resting = 5                // agents of each kind that run side by side
	refresh = 30 * time.Second // of the secrets, for both
	rest    = 45 * time.Second // until the memory of the start is given back and the first refresh is over
	idle    = 2 * time.Minute  // in which CPU time is counted
)

// work is what both agents are given to do.
type work struct {
	what  string
	files []file
	reads int // of static secrets by each refresh
	calls int // that it takes: a login, one for each mount, and one for each secret
	lease bool
}

// file is published from a template, which both understand, in the policy's words.
type file struct {
	name, template string
	ok             func(content string) bool
}

// contender is one of the two agents that are compared.
type contender struct {
	name    string // its role in Vault
	program string
	prepare func(*testing.T, *vaulttest.Vault, work) *instance

	start, busy []time.Duration // until all files are there, and the CPU time of it
	calls       map[string]int  // to Vault by the last start
	steady      []usage
	idle        []time.Duration // CPU time of an hour at rest
	reads       int             // of secrets by all resting agents while that was counted
}

// instance is one process of an agent.
type instance struct {
	start func() (pid int)
	path  func(name string) string
	end   func()
	log   func() string
}

// TestAgents compares our agent with Vault's own: the same secrets of the same
// Vault, the same templates, the same login, in turn and side by side. It needs
// root only to count the open files of an agent that hides.
func TestAgents(t *testing.T) {
	parts, err := build.Ensure(t.Context(), build.Options{Root: checkout(t), Log: os.Stderr, Want: []string{"vault-full"}})
	if err != nil {
		t.Fatalf("building Vault's agent: %v", err)
	}
	program, err := vaulttest.AgentProgram()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", "/dev/shm") // files in memory, as in a pod

	kv := work{what: "10 secrets of one KV mount", reads: 10, calls: 12}
	for i := range 10 {
		kv.files = append(kv.files, kvFile(i))
	}
	leased := work{what: "9 secrets of one KV mount and a database user", reads: 9, calls: 13, lease: true, files: append(slices.Clone(kv.files[:9]), userFile)}
	for _, w := range []work{kv, leased} {
		v := vaulttest.Start(t, vaulttest.Options{TLS: true})
		if w.lease {
			v.Database(vaulttest.StartPostgres(t), time.Hour, 24*time.Hour)
		}
		ours := &contender{name: "latchkey", program: program, prepare: prepareOurs}
		theirs := &contender{name: "vault-agent", program: parts["vault-full"], prepare: prepareTheirs(parts["vault-full"])}
		for _, c := range []*contender{ours, theirs} {
			v.Role(c.name, vaulttest.Read("kv/data/bench/*", "database/creds/app"), nil)
		}
		for i := range 10 {
			v.KV(fmt.Sprintf("bench/app%d", i), map[string]any{"username": "app", "password": password(i)})
		}
		for i := range starts {
			fmt.Fprintf(os.Stderr, "starting agents, round %d of %d\n", i+1, starts)
			ours.measureStart(t, v, w)
			theirs.measureStart(t, v, w)
		}
		atRest(t, v, w, ours, theirs)
		if err := report(os.Stdout, w, ours, theirs); err != nil {
			t.Fatal(err)
		}
	}
}

func checkout(t *testing.T) string {
	t.Helper()
	dir, err := vaulttest.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func password(i int) string { return fmt.Sprintf("password-%d", i) }

func kvFile(i int) file {
	return file{
		name:     fmt.Sprintf("app%d.env", i),
		template: fmt.Sprintf("{{ with secret \"kv/data/bench/app%d\" }}USERNAME={{ .Data.data.username }}\nPASSWORD={{ .Data.data.password }}\n{{ end }}", i),
		ok:       func(content string) bool { return content == "USERNAME=app\nPASSWORD="+password(i)+"\n" },
	}
}

var userFile = file{
	name:     "db.env",
	template: "{{ with secret \"database/creds/app\" }}USERNAME={{ .Data.username }}\nPASSWORD={{ .Data.password }}\n{{ end }}",
	ok: func(content string) bool {
		return strings.HasPrefix(content, "USERNAME=v-") && strings.HasSuffix(content, "\n") && strings.Contains(content, "\nPASSWORD=")
	},
}

// wait returns when all files have their content.
func (w work) wait(t *testing.T, c *contender, a *instance) {
	t.Helper()
	missing := slices.Clone(w.files)
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(vaulttest.Patience); ; <-poll.C {
		missing = slices.DeleteFunc(missing, func(f file) bool {
			content, err := os.ReadFile(a.path(f.name))
			return err == nil && f.ok(string(content))
		})
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has not made %s; its log:\n%s", c.name, missing[0].name, a.log())
		}
	}
}

func (c *contender) measureStart(t *testing.T, v *vaulttest.Vault, w work) {
	t.Helper()
	before := len(v.Audit())
	a := c.prepare(t, v, w)
	began := time.Now()
	pid := a.start()
	defer a.end()
	w.wait(t, c, a)
	c.start = append(c.start, time.Since(began))
	c.busy = append(c.busy, cpuOf(t, pid))
	pause(t, settle)
	c.calls = c.count(v, before)
}

// count is what an agent's tokens have asked of Vault after the log had so many
// entries, by kind.
func (c *contender) count(v *vaulttest.Vault, before int) map[string]int {
	counts := make(map[string]int)
	for _, e := range v.Audit()[before:] {
		if e.Role != c.name {
			continue
		}
		kind := e.String()
		for prefix, name := range map[string]string{
			"auth/kubernetes/login": "login", "auth/token/renew-self": "renewal", "sys/internal/ui/mounts/": "mount",
			"kv/data/": "read", "database/creds/": "database user", "sys/leases/renew": "lease renewal",
		} {
			if strings.HasPrefix(e.Path, prefix) {
				kind = name
			}
		}
		counts[kind]++
	}
	return counts
}

// atRest measures agents that have nothing to do but to keep their files fresh.
func atRest(t *testing.T, v *vaulttest.Vault, w work, both ...*contender) {
	type running struct {
		*contender
		pid    int
		before time.Duration
	}
	var all []*running
	for range resting {
		for _, c := range both {
			a := c.prepare(t, v, w)
			r := &running{contender: c, pid: a.start()}
			defer a.end()
			w.wait(t, c, a)
			all = append(all, r)
		}
	}
	fmt.Fprintf(os.Stderr, "letting %d agents of each kind come to rest\n", resting)
	pause(t, rest)
	entries := len(v.Audit())
	for _, r := range all {
		r.before = cpuOf(t, r.pid)
	}
	fmt.Fprintf(os.Stderr, "watching them for %s\n", idle)
	pause(t, idle)
	for _, r := range all {
		r.idle = append(r.idle, (cpuOf(t, r.pid)-r.before)*time.Duration(time.Hour/idle))
		u, err := usageOf(r.pid)
		if err != nil {
			t.Fatal(err)
		}
		r.steady = append(r.steady, u)
	}
	for _, c := range both {
		if c.reads = c.count(v, entries)["read"]; c.reads < resting*w.reads {
			t.Fatalf("%d agents of %s read %d secrets in %s: not each of %d once", resting, c.name, c.reads, idle, w.reads)
		}
	}
}

func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	used, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// pause lets time pass that is itself a part of the measurement.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

func prepareOurs(t *testing.T, v *vaulttest.Vault, w work) *instance {
	t.Helper()
	var files []config.File
	for _, f := range w.files {
		files = append(files, config.File{Path: f.name, Template: f.template, Mode: 0o400})
	}
	a := v.Agent("latchkey", files...)
	a.Config.Refresh, a.Config.Log = config.Duration(refresh), config.Log{}
	a.Config.Serve = "" // the other serves nothing either
	return &instance{
		start: func() int { a.Start(); return a.PID() },
		path:  a.Path,
		end:   func() { a.Terminate() },
		log:   a.Log,
	}
}

func prepareTheirs(program string) func(*testing.T, *vaulttest.Vault, work) *instance {
	return func(t *testing.T, v *vaulttest.Vault, w work) *instance {
		t.Helper()
		dir := t.TempDir()
		file := func(name string) string { return filepath.Join(dir, name) }
		var b strings.Builder
		fmt.Fprintf(&b, "vault {\n  address = %q\n  ca_cert = %q\n}\n", v.Address, v.CAFile)
		fmt.Fprintf(&b, "auto_auth {\n  method \"kubernetes\" {\n    config = {\n      role = \"vault-agent\"\n      token_path = %q\n    }\n  }\n}\n", file("token"))
		fmt.Fprintf(&b, "template_config {\n  static_secret_render_interval = %q\n}\n", refresh)
		for _, f := range w.files {
			fmt.Fprintf(&b, "template {\n  contents = %q\n  destination = %q\n  perms = \"0400\"\n}\n", f.template, file(f.name))
		}
		for name, content := range map[string]string{"config.hcl": b.String(), "token": v.Kubernetes.Token("vault-agent", time.Hour)} {
			if err := os.WriteFile(file(name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		log, err := os.Create(file("log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		cmd := exec.CommandContext(t.Context(), program, "agent", "-config", file("config.hcl"))
		cmd.Env = []string{"HOME=" + dir} // and nothing of VAULT_*
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return &instance{
			start: func() int {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return cmd.Process.Pid
			},
			path: file,
			end: func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				_ = cmd.Wait() // by a signal or not
			},
			log: func() string {
				content, _ := os.ReadFile(file("log")) // is only shown
				return string(content)
			},
		}
	}
}

// describe names calls and their numbers, sorted.
func describe(calls map[string]int) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(calls)) {
		parts = append(parts, fmt.Sprintf("%d %s", calls[kind], kind))
	}
	return strings.Join(parts, ", ")
}
