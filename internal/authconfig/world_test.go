package authconfig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// world is an API server and a Vault with one mount, which do what they are told
// and note what they are asked.
type world struct {
	mu    sync.Mutex
	calls []string // such as "Observe"

	sources map[string]map[string]string // data, by namespace/name
	record  plan.Record
	secrets map[string]cluster.Secret
	keys    map[string]string
	made    int

	mount  *plan.Mount
	config desired.Fields
	token  bool
	mark   string // in the config
	roles  map[string]desired.Fields
	// unreadable roles may not be looked at.
	unreadable bool

	// fail, if it is set, has a call fail; during is called in the middle of each.
	fail   func(call string) error
	during func(call string)
}

var (
	_ Cluster   = (*world)(nil)
	_ vault.API = (*world)(nil)
)

const source = "vault-auth/vault-auth-roles"

// role is one that no ConfigMap is too restricted for.
const role = `{"bound_service_account_names": "shop", "bound_service_account_namespaces": "shop", "token_policies": "shop"}`

func newWorld() *world {
	return &world{
		sources: map[string]map[string]string{source: {"shop": role}},
		secrets: map[string]cluster.Secret{},
		keys:    map[string]string{"one": "-----BEGIN PUBLIC KEY-----\nMQ==\n-----END PUBLIC KEY-----\n"},
		roles:   map[string]desired.Fields{},
	}
}

// do notes a call, and lets it fail.
func (w *world) do(call string) error {
	w.mu.Lock()
	w.calls = append(w.calls, call)
	fail, during := w.fail, w.during
	w.mu.Unlock()
	if during != nil {
		during(call)
	}
	if fail != nil {
		return fail(call)
	}
	return nil
}

// count is how often the calls were made since the last time, which forgets them.
func (w *world) count(calls ...string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if slices.Contains(calls, c) {
			n++
		}
	}
	w.calls = slices.DeleteFunc(w.calls, func(c string) bool { return slices.Contains(calls, c) })
	return n
}

// writes are all calls that change something in Vault.
var writes = []string{"Enable", "Tune", "WriteConfig", "WriteRole", "DeleteRole"}

func (w *world) Sources(_ context.Context, sources []desired.Source) (all []desired.ConfigMap, err error) {
	for _, s := range sources {
		data, ok := w.sources[s.String()]
		all = append(all, desired.ConfigMap{Source: s, Missing: !ok, Data: maps.Clone(data)})
	}
	return all, w.do("Sources")
}

func (w *world) CA(context.Context) (string, error) {
	return "-----BEGIN CERTIFICATE-----\nMQ==\n-----END CERTIFICATE-----\n", w.do("CA")
}

func (w *world) Keys(context.Context) (map[string]string, error) {
	w.mu.Lock()
	keys := maps.Clone(w.keys)
	w.mu.Unlock()
	return keys, w.do("Keys")
}

func (w *world) Issuer(context.Context) (string, error) { return "https://issuer.test", w.do("Issuer") }

func (w *world) Record(context.Context) (plan.Record, error) {
	return w.record.Clone(), w.do("Record")
}

func (w *world) SaveRecord(_ context.Context, r plan.Record) error {
	if err := w.do("SaveRecord"); err != nil {
		return err
	}
	w.record = r.Clone()
	return nil
}

func (w *world) Token(_ context.Context, _, _ string, life time.Duration, _ *cluster.Secret) (cluster.Token, error) {
	now := time.Now()
	return cluster.Token{JWT: sealed.Of("secret-jwt"), Issued: now, Expires: now.Add(life)}, w.do("Token")
}

func (w *world) Review(context.Context, sealed.Value[string], sealed.Value[string], string) error {
	return w.do("Review")
}

func (w *world) Secret(_ context.Context, name string, _ bool) (cluster.Secret, error) {
	w.mu.Lock()
	w.made++
	s := cluster.Secret{Name: name, UID: fmt.Sprint("uid-", w.made), Type: "Opaque"}
	w.secrets[name] = s
	w.mu.Unlock()
	return s, w.do("Secret")
}

func (w *world) FindSecret(_ context.Context, name string) (*cluster.Secret, sealed.Value[string], error) {
	w.mu.Lock()
	s, ok := w.secrets[name]
	w.mu.Unlock()
	if !ok {
		return nil, sealed.Value[string]{}, w.do("FindSecret")
	}
	return &s, sealed.Value[string]{}, w.do("FindSecret")
}

func (w *world) DeleteSecret(_ context.Context, s cluster.Secret) error {
	w.mu.Lock()
	if w.secrets[s.Name].UID == s.UID {
		delete(w.secrets, s.Name)
	}
	w.mu.Unlock()
	return w.do("DeleteSecret")
}

func (w *world) PlanObjects(context.Context, cluster.Objects) ([]plan.Step, []plan.Refusal, error) {
	return nil, nil, w.do("PlanObjects")
}

func (w *world) ApplyObject(context.Context, plan.Step) error { return w.do("ApplyObject") }

func (w *world) Observe(context.Context) (plan.Observed, error) {
	if err := w.do("Observe"); err != nil {
		return plan.Observed{}, err
	}
	o := plan.Observed{Cluster: "vault-1", Mount: w.mount, Config: w.config, Roles: maps.Clone(w.roles)}
	if w.mount != nil && w.mount.Type == "kubernetes" {
		token := w.token
		o.ReviewerToken, o.Mark = &token, w.mark
	}
	if w.unreadable {
		o.Roles, o.RolesUnknown = nil, true
		return o, vault.RolesError{Err: errors.New("listing roles: permission denied")}
	}
	return o, nil
}

func (w *world) Enable(_ context.Context, typ string, tune plan.Tune) (string, error) {
	if err := w.do("Enable"); err != nil {
		return "", err
	}
	w.mount = &plan.Mount{Type: typ, Accessor: "auth_1", Tune: tune}
	return "auth_1", nil
}

func (w *world) Tune(_ context.Context, tune plan.Tune) error {
	w.mount.Tune = tune
	return w.do("Tune")
}

func (w *world) WriteConfig(_ context.Context, config desired.Fields, token sealed.Value[string]) error {
	if err := w.do("WriteConfig"); err != nil {
		return err
	}
	w.config, w.mark, w.token = desired.CanonicalConfig(w.mount.Type, config), plan.Mark(config), token.Reveal() != ""
	return nil
}

func (w *world) WriteRole(ctx context.Context, name string, _, after desired.Fields) error {
	if err := w.do("WriteRole"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // as a request that is cut off
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.roles[name] = after
	return nil
}

func (w *world) DeleteRole(_ context.Context, name string) error {
	if err := w.do("DeleteRole"); err != nil {
		return err
	}
	delete(w.roles, name)
	return nil
}

func (w *world) Probe(context.Context, string, sealed.Value[string]) error { return w.do("Probe") }

// has reports whether Vault has a role.
func (w *world) has(role string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roles[role] != nil
}

// configured is a configuration that says what change says.
func configured(change func(*Config)) *Config {
	c := DefaultConfig()
	c.Vault.Address = "https://vault.test:8200"
	if change != nil {
		change(c)
	}
	c.complete()
	return c
}

// running is a loop about a world.
type running struct {
	*world
	*loop
	said *record.FakeRecorder
	log  *strings.Builder
	back atomic.Int64 // by how much somebody has set the clock back
	stop func()       // ends the loop, and waits for it
}

// run starts a loop. It has to be in a bubble of synctest.
func run(t *testing.T, w *world, change func(*Config)) *running {
	t.Helper()
	r := &running{world: w, said: record.NewFakeRecorder(1000), log: new(strings.Builder)}
	keeper := NewKeeper(configured(change), "latchkey", "https://api.test", true, w, w)
	log := slog.New(slog.NewTextHandler(io.MultiWriter(r.log, t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.loop = &loop{keeper: keeper, log: log, metrics: newMetrics(), changes: make(chan changed, 64),
		wall:   func() time.Time { return wall().Add(-time.Duration(r.back.Load())) },
		teller: &teller{log: log, recorder: r.said, uid: func(string, string) types.UID { return "" }, own: "latchkey/latchkey-authconfig"}}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.loop.run(ctx, func(func(changed)) {})
	}()
	r.stop = func() {
		cancel()
		<-over
	}
	t.Cleanup(r.stop)
	return r
}

type changed = change

// events are the Events since the last time.
func (r *running) events() (all []string) {
	for {
		select {
		case e := <-r.said.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// scrape is what Prometheus gets.
func (r *running) scrape(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// away is a Vault that nobody reaches.
func away(call string) error {
	if call == "Observe" {
		return errors.New("connection refused")
	}
	return nil
}
