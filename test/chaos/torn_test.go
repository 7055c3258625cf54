package chaos

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

var kills = flag.Int("kills", 2000, "how often the agent is killed")

// An app reads all the time while the agent is killed at any instant and started
// again, and publishes other secrets each time it lives for long enough. What
// the app sees is always one whole set.
func TestKilledWhileRotating(t *testing.T) {
	// The kernel kills the agent when the thread that has started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := newPod(t)
	p.start()
	vaulttest.Wait(t, "the first files", func() error {
		_, err := os.Stat(filepath.Join(p.volume, config.OutName, "one"))
		return err
	})
	p.kill()

	app := &reader{pod: p}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		app.run(stop)
	}()
	// The life of a run is any time up to one that about half of them do not
	// live to publish in: so they are killed before, while and after they do.
	longest, published := 50*time.Millisecond, 0
	for range *kills {
		before := p.set()
		p.start()
		life := time.NewTimer(rand.N(longest))
		select {
		case <-life.C:
		case <-p.ended:
			t.Fatalf("the agent has ended by itself:\n%s", p.log())
		}
		p.kill()
		if p.set() != before {
			published++
			longest = longest * 98 / 100
		} else {
			longest = longest * 102 / 100
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d kills, %d of them after a publication; %d reads of a whole set, of %d sets; %d torn", *kills, published, app.reads.Load(), app.sets, len(app.torn))
	for _, torn := range app.torn[:min(len(app.torn), 10)] {
		t.Error(torn)
	}
	// Each would make the test prove nothing.
	if published < *kills/5 || published > *kills*4/5 {
		t.Errorf("%d of %d runs published: the instants are not spread over the publication", published, *kills)
	}
	if app.sets < published/10 {
		t.Errorf("the reader saw %d sets of %d", app.sets, published)
	}
	if p.stub.logins != 1 {
		t.Errorf("%d logins, want one: the token is kept", p.stub.logins)
	}

	// It heals: one more run leaves nothing of those before.
	before := p.set()
	p.start()
	vaulttest.Wait(t, "another set", func() error {
		if p.set() == before {
			return errors.New("it is still the old one")
		}
		return nil
	})
	vaulttest.Wait(t, "the rest to be swept up", func() error { return p.tidy() })
	p.kill()
	if strings.Contains(p.log(), "panic:") {
		t.Errorf("the agent has panicked:\n%s", p.log())
	}
}

// pod is one agent's surroundings.
type pod struct {
	t      *testing.T
	stub   *stub
	dir    string
	volume string // on a tmpfs of its own
	conf   *config.Agent

	cmd   *exec.Cmd
	ended chan struct{}
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t, stub: startStub(t), dir: t.TempDir(), volume: vaulttest.Tmpfs(t, "16m")}
	token := filepath.Join(p.dir, "token")
	if err := os.WriteFile(token, []byte(identity()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.conf = &config.Agent{
		Version: config.Version,
		Vault: config.Vault{Address: p.stub.address, Auth: config.Auth{
			Method: "kubernetes", Mount: "kubernetes", Role: "chaos", Audience: "vault", TokenPath: token,
		}},
		Files: []config.File{
			{Path: "tls", Mode: 0o400, Secret: "pki/issue/chaos", Data: map[string]any{"common_name": "chaos"},
				Files: map[string]string{"tls.crt": "certificate", "tls.key": "private_key", "ca.crt": "issuing_ca"}},
			{Path: "set", Mode: 0o440, Secret: "kv/set", KV: 1, Files: map[string]string{"a": "a", "b": "b", "c": "c", "d": "d", "e": "e"}},
			// Two entries of one secret, in one publication.
			{Path: "one", Mode: 0o440, Secret: "kv/shared", KV: 1, Format: config.FormatRaw, Key: "a"},
			{Path: "two", Mode: 0o440, Secret: "kv/shared", KV: 1, Format: config.FormatRaw, Key: "b"},
		},
		Refresh:      config.Duration(config.MinRefresh),
		StartTimeout: config.Duration(time.Minute),
		Log:          config.Log{Level: "warn"},
	}
	t.Cleanup(p.kill)
	return p
}

func (p *pod) start() {
	p.t.Helper()
	program, err := vaulttest.AgentProgram()
	if err != nil {
		p.t.Fatal(err)
	}
	vars, err := p.conf.Env()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(program, "--volume", p.volume, "--termination-log", filepath.Join(p.dir, "termination-log"))
	cmd.Env = []string{}
	for _, v := range vars {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(p.dir, "agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
}

func (p *pod) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	p.cmd = nil
}

func (p *pod) log() string {
	log, err := os.ReadFile(filepath.Join(p.dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-4000):])
}

// set is the name of the published set.
func (p *pod) set() string {
	name, err := os.Readlink(filepath.Join(p.volume, config.FilesName, "..data"))
	if err != nil {
		return ""
	}
	return name
}

// tidy reports what does not belong into the volume.
func (p *pod) tidy() error {
	var sets []string
	err := filepath.WalkDir(p.volume, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		switch {
		case strings.HasSuffix(name, ".new"), strings.HasSuffix(name, "_tmp"), strings.HasSuffix(name, ".hook"):
			return fmt.Errorf("%s is left over", path)
		case d.IsDir() && strings.HasPrefix(name, "..2"):
			sets = append(sets, name)
		}
		return nil
	})
	if err == nil && len(sets) != 1 {
		err = fmt.Errorf("there are the sets %q", sets)
	}
	return err
}

// reader is an app that reads all the time.
type reader struct {
	pod   *pod
	reads atomic.Int64
	sets  int
	torn  []string
}

func (r *reader) run(stop <-chan struct{}) {
	last := ""
	for {
		select {
		case <-stop:
			return
		default:
		}
		set, values, err := r.whole()
		if set == "" {
			continue
		}
		r.reads.Add(1)
		if set != last {
			last = set
			r.sets++
		}
		if err == nil {
			err = compare(values)
		}
		if err != nil {
			r.torn = append(r.torn, fmt.Sprintf("set %s: %v", set, err))
		}
	}
}

// groups are the files that one answer gave.
var groups = [][]string{
	{"tls/tls.crt", "tls/tls.key", "tls/ca.crt"},
	{"set/a", "set/b", "set/c", "set/d", "set/e"},
	{"one", "two"},
}

// whole reads all files by the names that apps use. Where the link was swapped
// meanwhile, names lead to two sets and nothing can be said: set is then empty.
func (r *reader) whole() (set string, values map[string]string, err error) {
	before := r.pod.set()
	values = make(map[string]string)
	for _, group := range groups {
		for _, name := range group {
			content, e := os.ReadFile(filepath.Join(r.pod.volume, config.OutName, name))
			if e != nil {
				err = errors.Join(err, e)
			}
			values[name] = string(content)
		}
	}
	if r.pod.set() != before {
		return "", nil, nil
	}
	if before == "" {
		return "none", nil, errors.New("nothing is published any more")
	}
	return before, values, err
}

// compare reports files of one answer that tell of two, or are not whole.
func compare(values map[string]string) error {
	for _, group := range groups {
		var answer int
		if _, err := fmt.Sscan(values[group[0]], &answer); err != nil {
			return fmt.Errorf("%s begins with no number: %w", group[0], err)
		}
		for i, name := range group {
			if got := values[name]; got != value(answer, i) {
				return fmt.Errorf("%s is of answer %d, and %s holds %d bytes: %.20q…", group[0], answer, name, len(got), got)
			}
		}
	}
	return nil
}
