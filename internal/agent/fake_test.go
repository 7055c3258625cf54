package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
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

// fakeVault stands in for Vault where errors and timing matter. It fails the
// test on any call that it does not know. It is the agent's transport as well,
// so that everything runs on the test's clock.
type fakeVault struct {
	t       *testing.T
	mu      sync.Mutex
	calls   []string
	tokens  map[string]*fakeToken
	minted  int
	mounts  map[string]string         // "kv/" → "kv 2"
	secrets map[string]map[string]any // API path → answer's fields beside request_id
	// writes answer writes to API paths, given the data.
	writes  map[string]func(map[string]any) map[string]any
	revoked []string // leases
	role    fakeRole
	// fault, if set, answers instead where it returns true.
	fault func(w http.ResponseWriter, r *http.Request) bool
	cut   bool   // the network is cut
	jwt   string // the file with the ServiceAccount token
}

type fakeRole struct {
	ttl, max     time.Duration
	batch, fixed bool // fixed: not renewable
	uses         int
	gone         bool
}

type fakeToken struct {
	born, expires time.Time
	role          fakeRole
	revoked       bool
}

// Whatever of these shows up in a log, an error or the status is a leak.
const (
	fixturePassword = "p4ssw0rd-of-the-fixture"
	fixtureNumber   = "98765432109876543210"
	tokenPrefix     = "hvs.fixture-token-"
)

func newFake(t *testing.T) *fakeVault {
	data := map[string]any{"username": "ada", "password": fixturePassword, "pin": json.Number(fixtureNumber)}
	return &fakeVault{
		t:      t,
		tokens: make(map[string]*fakeToken),
		mounts: map[string]string{"kv/": "kv 2", "old/": "kv 1", "db/": "database"},
		secrets: map[string]map[string]any{
			"kv/data/app":   {"data": map[string]any{"data": data, "metadata": map[string]any{"version": 1}}},
			"kv/data/other": {"data": map[string]any{"data": map[string]any{"key": "other"}, "metadata": map[string]any{"version": 1}}},
			"old/app":       {"data": data, "lease_duration": 2764800},
			"db/creds/app":  {"data": data, "lease_id": "db/creds/app/x", "lease_duration": 3600, "renewable": true},
		},
		writes: make(map[string]func(map[string]any) map[string]any),
		role:   fakeRole{ttl: time.Hour, max: 24 * time.Hour},
	}
}

// RoundTrip answers without a network.
func (f *fakeVault) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	cut := f.cut
	f.mu.Unlock()
	if cut {
		return nil, errors.New("dial tcp 10.0.0.1:8200: connect: connection refused")
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, r.Method+" "+path)
	if r.Header.Get("X-Vault-Wrap-TTL") != "" {
		f.t.Errorf("%s asks for wrapping", path)
	}
	if r.Header.Get("X-Vault-Request") != "true" {
		f.t.Errorf("%s lacks X-Vault-Request", path)
	}
	if f.fault != nil {
		fault := f.fault
		f.mu.Unlock()
		done := fault(w, r)
		f.mu.Lock()
		if done {
			return
		}
	}
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		f.login(w, r)
		return
	}
	token := f.tokens[r.Header.Get("X-Vault-Token")]
	if token == nil || token.revoked || !time.Now().Before(token.expires) {
		fail(w, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	switch {
	case path == "auth/token/renew-self":
		switch {
		case token.role.fixed || token.role.batch:
			fail(w, 400, "lease is not renewable")
		case f.role.gone:
			fail(w, 500, "role payments does not exist during renewal")
		default:
			token.expires = time.Now().Add(min(token.role.ttl, time.Until(token.born.Add(token.role.max))))
			f.auth(w, r.Header.Get("X-Vault-Token"), token)
		}
	case path == "auth/token/revoke-self":
		token.revoked = true
		w.WriteHeader(204)
	case strings.HasPrefix(path, "sys/internal/ui/mounts/"):
		for at, kind := range f.mounts {
			if strings.HasPrefix(strings.TrimPrefix(path, "sys/internal/ui/mounts/")+"/", at) {
				engine, version, _ := strings.Cut(kind, " ")
				answer(w, map[string]any{"data": map[string]any{"path": at, "type": engine, "options": map[string]any{"version": version}}})
				return
			}
		}
		fail(w, 403, "preflight capability check returned 403, please ensure client's policies grant access to path")
	case path == "sys/leases/revoke":
		var body struct {
			LeaseID string `json:"lease_id"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.LeaseID == "" {
			f.t.Errorf("revoking no lease: %v", err)
		}
		f.revoked = append(f.revoked, body.LeaseID)
		w.WriteHeader(204)
	case r.Method == http.MethodPut && f.writes[path] != nil:
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			f.t.Errorf("writing %s: %v", path, err)
		}
		answer(w, f.writes[path](body))
	case r.Method == http.MethodGet && f.mounted(path):
		s, ok := f.secrets[path]
		if !ok {
			fail(w, 404)
			return
		}
		answer(w, s)
	default:
		f.t.Errorf("unknown call %s %s", r.Method, path)
		fail(w, 405, "unsupported operation")
	}
}

func (f *fakeVault) mounted(path string) bool {
	for at := range f.mounts {
		if strings.HasPrefix(path, at) {
			return true
		}
	}
	return false
}

func (f *fakeVault) login(w http.ResponseWriter, r *http.Request) {
	if got := r.Header.Get("X-Vault-Token"); got != "" {
		f.t.Errorf("login carries the token %q", got)
	}
	var body struct{ JWT, Role string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		f.t.Errorf("login: %v", err)
	}
	if want, err := os.ReadFile(f.jwt); err != nil || body.JWT != strings.TrimSpace(string(want)) {
		f.t.Errorf("login with a token that is not the one in the file")
	}
	if body.Role != "payments" || f.role.gone {
		fail(w, 400, fmt.Sprintf("invalid role name %q", body.Role))
		return
	}
	f.minted++
	id := fmt.Sprint(tokenPrefix, f.minted)
	f.tokens[id] = &fakeToken{born: time.Now(), expires: time.Now().Add(f.role.ttl), role: f.role}
	f.auth(w, id, f.tokens[id])
}

func (f *fakeVault) auth(w http.ResponseWriter, id string, token *fakeToken) {
	kind := "service"
	if token.role.batch {
		kind = "batch"
	}
	answer(w, map[string]any{"auth": map[string]any{
		"client_token": id, "accessor": "accessor-" + id[len(tokenPrefix):], "token_type": kind, "num_uses": token.role.uses,
		"renewable": !token.role.batch && !token.role.fixed, "lease_duration": int(time.Until(token.expires).Seconds()), "policies": []string{"default"},
	}})
}

func answer(w http.ResponseWriter, fields map[string]any) {
	body := map[string]any{"request_id": "r"}
	maps.Copy(body, fields)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func fail(w http.ResponseWriter, status int, texts ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": append([]string{}, texts...)})
}

// set changes the fake under its lock.
func (f *fakeVault) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// taken returns the calls since the last time.
func (f *fakeVault) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// good counts the tokens that Vault would still accept.
func (f *fakeVault) good() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		if !t.revoked && time.Now().Before(t.expires) {
			n++
		}
	}
	return n
}

// pod is one pod: a volume, an identity, a configuration, and the containers
// of the agent that ran in it.
type pod struct {
	t     *testing.T
	vault *fakeVault
	dir   string
	conf  *config.Agent
	logs  *syncBuffer
	app   *fakeApp
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
	a.transport, a.rest, a.send = p.vault, func() {}, p.app.send
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
