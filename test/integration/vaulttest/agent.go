package vaulttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// An Agent is the agent's binary with a volume and an identity of its own: all
// that a pod gives it.
type Agent struct {
	// Config may be changed before each start.
	Config *config.Agent
	// Volume is the whole shared volume, Token the file with the identity.
	Volume, Token string

	v       *Vault
	name    string
	dir     string
	process *process
}

// Agent makes an agent that logs in with kubernetes auth as a role, which
// [Vault.Role] has made or will make. It is not started yet.
func (v *Vault) Agent(role string, files ...config.File) *Agent {
	v.t.Helper()
	dir, err := os.MkdirTemp(v.dir, "agent-"+role+"-")
	if err != nil {
		v.t.Fatal(err)
	}
	a := &Agent{v: v, name: filepath.Base(dir), dir: dir, Volume: filepath.Join(dir, "volume"), Token: filepath.Join(dir, "token")}
	if err := os.Mkdir(a.Volume, 0o755); err != nil {
		v.t.Fatal(err)
	}
	files = slices.Clone(files)
	for i := range files {
		if files[i].Mode == 0 {
			files[i].Mode = 0o440
		}
	}
	a.Config = &config.Agent{
		Version: config.Version,
		Vault: config.Vault{Address: v.Address, CAFile: v.CAFile, Auth: config.Auth{
			Method: "kubernetes", Mount: "kubernetes", Role: role, Audience: Audience, TokenPath: a.Token,
		}},
		Files:        files,
		Refresh:      config.Duration(config.MinRefresh),
		StartTimeout: config.Duration(Patience),
		Serve:        loopback(v.t),
		Log:          config.Log{Level: "debug"},
	}
	a.SetToken(v.Kubernetes.Token(role, time.Hour))
	v.t.Cleanup(func() {
		told := a.told()
		a.Kill()
		maps.Copy(told, a.told()) // what it has said since
		a.checkLeaks(told)
	})
	return a
}

// SetToken replaces the identity, as the kubelet does.
func (a *Agent) SetToken(token string) {
	a.v.t.Helper()
	a.v.writeFile(filepath.Join(a.name, "token"), token+"\n")
}

// Start starts the agent, or starts it again in the same volume, as the kubelet
// does with a container that has ended.
func (a *Agent) Start() {
	a.v.t.Helper()
	if a.process.running() {
		a.v.t.Fatal("the agent runs already")
	}
	vars, err := a.Config.Env()
	if err != nil {
		a.v.t.Fatal(err)
	}
	cmd := a.command("--volume", a.Volume, "--termination-log", a.lastWords())
	for _, v := range vars {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	if a.process, err = launch(a.logFile(), cmd); err != nil {
		a.v.t.Fatal(err)
	}
}

func (a *Agent) command(args ...string) *exec.Cmd {
	a.v.t.Helper()
	program, err := AgentProgram()
	if err != nil {
		a.v.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{} // nil is the test's own
	return cmd
}

// Kill is SIGKILL.
func (a *Agent) Kill() { a.process.end(syscall.SIGKILL) }

// Terminate is SIGTERM; it returns the exit code.
func (a *Agent) Terminate() int {
	a.v.t.Helper()
	a.process.end(syscall.SIGTERM)
	return a.process.exitCode()
}

// Running reports whether its process runs.
func (a *Agent) Running() bool { return a.process.running() }

// WaitEnd waits until the agent has ended by itself and returns its exit code.
func (a *Agent) WaitEnd() int {
	a.v.t.Helper()
	Wait(a.v.t, "the agent to end", func() error {
		if a.Running() {
			return fmt.Errorf("it runs; its log:\n%s", tail(a.Log()))
		}
		return nil
	})
	return a.process.exitCode()
}

// PID is the process ID of an agent that runs.
func (a *Agent) PID() int { return a.process.cmd.Process.Pid }

// LastWords is the termination message, empty if there is none.
func (a *Agent) LastWords() string {
	words, _ := os.ReadFile(a.lastWords()) // none is usual
	return string(words)
}

func (a *Agent) lastWords() string { return filepath.Join(a.dir, "termination-log") }
func (a *Agent) logFile() string   { return filepath.Join(a.dir, "agent.log") }

// Log is what the agent has printed since its first start.
func (a *Agent) Log() string {
	a.v.t.Helper()
	log, err := os.ReadFile(a.logFile())
	if err != nil {
		a.v.t.Fatal(err)
	}
	return string(log)
}

// WaitLog waits for a line that has all of parts, at or behind the offset that
// an earlier Log had as its length, and returns it.
func (a *Agent) WaitLog(after int, parts ...string) string {
	a.v.t.Helper()
	var found string
	Wait(a.v.t, fmt.Sprintf("a line of the log with %q", parts), func() error {
		log := a.Log()
		for line := range strings.Lines(log[min(after, len(log)):]) {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
				found = line
				return nil
			}
		}
		return fmt.Errorf("there is none:\n%s", tail(log))
	})
	return found
}

// Ready runs `agent ready`, and returns what it says if it is not.
func (a *Agent) Ready() (ok bool, reason string) {
	a.v.t.Helper()
	out, err := a.command("ready", "--volume", a.Volume).CombinedOutput()
	return err == nil, string(bytes.TrimSpace(out))
}

// WaitReady waits until the files are published. An agent that ends instead fails
// the test.
func (a *Agent) WaitReady() {
	a.v.t.Helper()
	Wait(a.v.t, "the agent to be ready", func() error {
		if !a.Running() {
			a.v.t.Fatalf("%s has ended with %d: %s", a.name, a.process.exitCode(), a.LastWords())
		}
		if ok, reason := a.Ready(); !ok {
			return fmt.Errorf("%s; its log:\n%s", reason, tail(a.Log()))
		}
		return nil
	})
}

// Path is a published file as an app sees it.
func (a *Agent) Path(name string) string { return filepath.Join(a.Volume, config.OutName, name) }

// File is the content of a published file, or an error. What it holds is
// registered as with [Vault.Secret], in so far as it is long.
func (a *Agent) File(name string) (string, error) {
	b, err := os.ReadFile(a.Path(name))
	if conf, e := a.Config.Encode(); e == nil {
		a.v.secretsOf(string(b), string(conf))
	}
	return string(b), err
}

// WaitFile waits until a published file has this content.
func (a *Agent) WaitFile(name, want string) {
	a.v.t.Helper()
	a.WaitFileFunc(name, fmt.Sprintf("be %q", want), func(got string) bool { return got == want })
}

// WaitFileFunc waits until a published file is as ok describes and returns it.
func (a *Agent) WaitFileFunc(name, what string, ok func(content string) bool) string {
	a.v.t.Helper()
	var got string
	Wait(a.v.t, "the file "+name+" to "+what, func() (err error) {
		if got, err = a.File(name); err != nil || !ok(got) {
			return fmt.Errorf("it is %q (%v); the agent's log:\n%s", got, err, tail(a.Log()))
		}
		return nil
	})
	return got
}

// WaitChange waits until a published file has another content than before, and
// returns it.
func (a *Agent) WaitChange(name, before string) string {
	a.v.t.Helper()
	return a.WaitFileFunc(name, "change", func(got string) bool { return got != before })
}

// WaitGone waits until there is no such published file.
func (a *Agent) WaitGone(name string) {
	a.v.t.Helper()
	Wait(a.v.t, "the file "+name+" to go", func() error {
		if _, err := os.Lstat(a.Path(name)); !os.IsNotExist(err) {
			return fmt.Errorf("it is there (%v); the agent's log:\n%s", err, tail(a.Log()))
		}
		return nil
	})
}

// Files are all published files with their contents.
func (a *Agent) Files() map[string]string {
	a.v.t.Helper()
	files := make(map[string]string)
	for _, path := range a.Config.Paths() {
		if content, err := a.File(path); err == nil {
			files[path] = content
		}
	}
	return files
}

// told is all that the agent has said so far, where people and programs that
// may not have the secrets can read it.
func (a *Agent) told() map[string]string {
	told := make(map[string]string)
	for name, path := range map[string]string{
		"log": a.logFile(), "termination message": a.lastWords(), "status": filepath.Join(a.Volume, config.PrivateName, "status"),
	} {
		if content, err := os.ReadFile(path); err == nil {
			told[name] = string(content)
		}
	}
	for _, page := range []string{"/metrics", "/readyz"} {
		if content, err := a.page(page); err == nil {
			told[page] = content
		}
	}
	return told
}

// page is one of those that the agent serves to whoever can reach its port.
func (a *Agent) page(path string) (string, error) {
	if a.Config.Serve == "" || !a.Running() {
		return "", errors.New("nothing is served")
	}
	client := http.Client{Timeout: 10 * time.Second}
	res, err := client.Get("http://" + a.Config.Serve + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return string(content), err
}

// Metric is the value of a metric, named with its labels if it has any; NaN if
// there is none of the name.
func (a *Agent) Metric(name string) float64 {
	a.v.t.Helper()
	page, err := a.page("/metrics")
	if err != nil {
		a.v.t.Fatalf("reading the agent's metrics: %v", err)
	}
	for line := range strings.Lines(page) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+" "); found {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				a.v.t.Fatalf("metric %s: %v", name, err)
			}
			return n
		}
	}
	return math.NaN()
}

func (a *Agent) checkLeaks(told map[string]string) {
	t := a.v.t
	t.Helper()
	for _, where := range slices.Sorted(maps.Keys(told)) {
		for _, leak := range a.v.leaks(told[where]) {
			t.Errorf("%s: its %s holds a secret: %s", a.name, where, leak)
		}
	}
}
