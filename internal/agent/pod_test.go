package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/config"
)

// pod is one pod: a volume, an identity, a configuration, and the containers
// of the agent that ran in it.
type pod struct {
	t     *testing.T
	vault *fakeVault
	dir   string
	conf  *config.Agent
	logs  *syncBuffer
	app   *fakeApp
	// listen replaces what opens ports, which a test with a clock of its own cannot.
	listen func(string) (net.Listener, error)
}

// fakeApp is who is told of changes.
type fakeApp struct {
	mu    sync.Mutex
	fail  error
	tries int
	heard []string // targets
}

func (f *fakeApp) send(_ context.Context, to config.Notification) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.fail == nil {
		f.heard = append(f.heard, target(to))
	}
	return f.fail
}

// taken returns who heard since the last time, and how often it was tried.
func (f *fakeApp) taken() (heard []string, tries int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	heard, tries = f.heard, f.tries
	f.heard, f.tries = nil, 0
	return heard, tries
}

func (f *fakeApp) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fixtureJWT is unsigned: the fake does not verify it.
func fixtureJWT() string {
	encode := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return strings.Join([]string{encode(map[string]string{"alg": "RS256"}), encode(map[string]any{
		"iss": "https://kubernetes.default.svc", "aud": []string{"vault"}, "exp": 1900000000,
		"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "checkout"}},
	}), "c2lnbmF0dXJl"}, ".")
}

func newPod(t *testing.T, files ...config.File) *pod {
	t.Helper()
	p := &pod{t: t, vault: newFake(t), dir: t.TempDir(), logs: &syncBuffer{}, app: &fakeApp{}}
	token := filepath.Join(t.TempDir(), "token")
	p.vault.jwt = token
	if err := os.WriteFile(token, []byte(fixtureJWT()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i].Mode = 0o440
	}
	p.conf = &config.Agent{
		Version: config.Version,
		Vault: config.Vault{Address: "https://vault.test:8200", Auth: config.Auth{
			Method: "kubernetes", Mount: "kubernetes", Role: "payments", Audience: "vault", TokenPath: token,
		}},
		Files:        files,
		Refresh:      config.Duration(5 * time.Minute),
		StartTimeout: config.Duration(2 * time.Minute),
		Log:          config.Log{Level: "debug"},
	}
	if err := p.conf.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.checkLeaks)
	return p
}

// checkLeaks looks for every fixture secret in all that the agent wrote but the
// published files and the private token.
func (p *pod) checkLeaks() {
	status, _ := os.ReadFile(filepath.Join(p.dir, "private", "status"))
	out := p.logs.String() + string(status)
	for _, secret := range []string{fixturePassword, fixtureNumber, tokenPrefix, fixtureJWT(), "c2lnbmF0dXJl", base64.StdEncoding.EncodeToString([]byte(fixturePassword))} {
		if strings.Contains(out, secret) {
			p.t.Errorf("the agent's output holds %q:\n%s", secret, out)
		}
	}
}

// container is one run of the agent.
type container struct {
	agent  *Agent
	stop   context.CancelFunc
	result chan error
}

func (p *pod) start() *container {
	p.t.Helper()
	v, err := volume.Open(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(p.logs, testWriter{p.t}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(p.conf, v, log)
	if err != nil {
		p.t.Fatal(err)
	}
	a.transport, a.rest, a.send = counted{p.vault, a.ops.meter}, func() {}, p.app.send
	if p.listen != nil {
		a.ops.listen = p.listen
	}
	return p.run(a, v)
}

func (p *pod) run(a *Agent, v *volume.Volume) *container {
	ctx, stop := context.WithCancel(p.t.Context())
	c := &container{a, stop, make(chan error, 1)}
	go func() {
		defer v.Close()
		c.result <- a.Run(ctx)
	}()
	return c
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s %s", time.Now().Format(time.TimeOnly), bytes.TrimSpace(b))
	return len(b), nil
}

// terminate is SIGTERM and the wait for the end.
func (c *container) terminate() error {
	c.stop()
	return <-c.result
}

// killed returns a pod whose volume is as if the agent had been killed now,
// with the old container's run out of the way.
func (p *pod) killed() *pod {
	p.t.Helper()
	dir := filepath.Join(p.t.TempDir(), "volume")
	if out, err := exec.Command("cp", "-a", p.dir, dir).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	after := *p
	after.dir = dir
	return &after
}

func (p *pod) file(name string) string {
	b, err := os.ReadFile(filepath.Join(p.dir, "out", name))
	if err != nil {
		return "no file: " + err.Error()
	}
	return string(b)
}

func (p *pod) ready() (bool, string) {
	p.t.Helper()
	v, err := volume.Open(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	defer v.Close()
	return Ready(v)
}

func (p *pod) wantReady() {
	p.t.Helper()
	if ok, reason := p.ready(); !ok {
		p.t.Fatalf("not ready: %s", reason)
	}
}

// after lets d pass and everything that it sets off happen.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (p *pod) wantCalls(want ...string) {
	p.t.Helper()
	got := p.vault.taken()
	for i, call := range got {
		// Which of several paths on a mount is asked for first is left open.
		if strings.HasPrefix(call, callProbe+"kv/") {
			got[i] = callMount
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Errorf("calls to Vault:\n got %q\nwant %q", got, want)
	}
}

func env(path, secret string) config.File {
	return config.File{Path: path, Secret: secret, Format: config.FormatEnv}
}

const (
	appEnv    = "password='" + fixturePassword + "'\npin='" + fixtureNumber + "'\nusername='ada'\n"
	callLogin = "PUT auth/kubernetes/login"
	callRenew = "PUT auth/token/renew-self"
	callProbe = "GET sys/internal/ui/mounts/"
	callMount = callProbe + "kv/app"
	callRead  = "GET kv/data/app"
	callEnd   = "PUT auth/token/revoke-self"
)
