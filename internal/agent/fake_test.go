package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
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
	revoked []string               // leases
	engines map[string]*fakeEngine // API path → what gives leases there
	leases  map[string]*fakeLease
	role    fakeRole
	// fault, if set, answers instead where it returns true.
	fault func(w http.ResponseWriter, r *http.Request) bool
	cut   bool   // the network is cut
	jwt   string // the file with the ServiceAccount token
	// admit, if set, is asked instead of comparing that file and the role: it
	// returns why a login is refused, or "".
	admit func(mount string, data map[string]string) string
	// wrapped are response-wrapping tokens that were not used yet.
	wrapped map[string]fakeWrapped
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
	used          int
	revoked       bool
	policies      []string
}

type fakeWrapped struct {
	path     string
	secretID string
}

// fakeEngine gives numbered credentials.
type fakeEngine struct {
	ttl, max time.Duration
	fixed    bool // its leases are not renewable
	down     bool // what the credentials are for does not answer
	gone     bool // the role was deleted
	made     int
}

type fakeLease struct {
	engine        *fakeEngine
	token         *fakeToken
	born, expires time.Time
}

// good reports whether the credentials of a lease still work.
func (l *fakeLease) good() bool { return time.Now().Before(l.expires) && l.token.good() }

func (t *fakeToken) good() bool { return !t.revoked && time.Now().Before(t.expires) }

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
		},
		writes:  make(map[string]func(map[string]any) map[string]any),
		engines: map[string]*fakeEngine{"db/creds/app": {ttl: time.Hour, max: 24 * time.Hour}},
		leases:  make(map[string]*fakeLease),
		role:    fakeRole{ttl: time.Hour, max: 24 * time.Hour},
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
	if r.Header.Get("X-Vault-Wrap-TTL") != "" && path != "sys/wrapping/wrap" {
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
	if strings.HasPrefix(path, "sys/wrapping/") {
		f.wrapping(w, r, strings.TrimPrefix(path, "sys/wrapping/"))
		return
	}
	token := f.tokens[r.Header.Get("X-Vault-Token")]
	if token == nil || !token.good() {
		fail(w, 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	if token.used++; token.used == token.role.uses {
		token.revoked = true
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
	case path == "auth/token/lookup-self":
		reply(w, map[string]any{"data": map[string]any{"ttl": int(time.Until(token.expires).Seconds()), "type": "service", "policies": token.policies,
			"renewable": !token.role.fixed, "num_uses": token.role.uses, "accessor": "accessor"}})
	case path == "auth/token/revoke-self":
		token.revoked = true
		w.WriteHeader(204)
	case strings.HasPrefix(path, "sys/internal/ui/mounts/"):
		for at, kind := range f.mounts {
			if strings.HasPrefix(strings.TrimPrefix(path, "sys/internal/ui/mounts/")+"/", at) {
				engine, version, _ := strings.Cut(kind, " ")
				reply(w, map[string]any{"data": map[string]any{"path": at, "type": engine, "options": map[string]any{"version": version}}})
				return
			}
		}
		fail(w, 403, "preflight capability check returned 403, please ensure client's policies grant access to path")
	case path == "sys/leases/renew":
		f.renewLease(w, r)
	case f.engines[path] != nil:
		f.give(w, path, token)
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
		reply(w, f.writes[path](body))
	case r.Method == http.MethodGet && f.mounted(path):
		s, ok := f.secrets[path]
		if !ok {
			fail(w, 404)
			return
		}
		reply(w, s)
	default:
		f.t.Errorf("unknown call %s %s", r.Method, path)
		fail(w, 405, "unsupported operation")
	}
}

// give gives credentials with a lease.
func (f *fakeVault) give(w http.ResponseWriter, path string, token *fakeToken) {
	e := f.engines[path]
	switch {
	case e.down:
		fail(w, 500, "1 error occurred: dial tcp 10.0.0.9:5432: connect: connection refused")
		return
	case e.gone:
		fail(w, 400, "unknown role: app")
		return
	}
	e.made++
	id := fmt.Sprint(path, "/", e.made)
	l := &fakeLease{engine: e, token: token, born: time.Now(), expires: time.Now().Add(e.ttl)}
	f.leases[id] = l
	if token.role.batch && l.expires.After(token.expires) {
		l.expires = token.expires
	}
	reply(w, map[string]any{"lease_id": id, "lease_duration": int(time.Until(l.expires).Seconds()), "renewable": !e.fixed,
		"data": map[string]any{"username": fmt.Sprint("user-", e.made), "password": fixturePassword}})
}

func (f *fakeVault) renewLease(w http.ResponseWriter, r *http.Request) {
	var body struct {
		LeaseID   string `json:"lease_id"`
		Increment int    `json:"increment"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.LeaseID == "" || body.Increment != 0 {
		f.t.Errorf("renewing %+v: %v", body, err)
	}
	l := f.leases[body.LeaseID]
	switch {
	case l == nil || !l.good():
		fail(w, 400, "lease not found")
	case l.engine.fixed:
		fail(w, 400, "lease is not renewable")
	case l.engine.down:
		fail(w, 400, "failed to renew entry: resp: (*logical.Response)(nil) err: dial tcp 10.0.0.9:5432: connect: connection refused")
	case l.engine.gone:
		fail(w, 400, "failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: could not find role with name \"app\"")
	default:
		l.expires = time.Now().Add(min(l.engine.ttl, time.Until(l.born.Add(l.engine.max))))
		if l.token.role.batch && l.expires.After(l.token.expires) {
			l.expires = l.token.expires
		}
		reply(w, map[string]any{"lease_id": body.LeaseID, "lease_duration": int(time.Until(l.expires).Seconds()), "renewable": true})
	}
}

// works reports whether the credentials of that name are good.
func (f *fakeVault) works(user string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, _ := strings.Cut(strings.TrimSpace(user), "-")
	l := f.leases["db/creds/app/"+n]
	return l != nil && l.good()
}

// given counts the credentials that were made.
func (f *fakeVault) given() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.engines["db/creds/app"].made
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
	var body map[string]string
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		f.t.Errorf("login: %v", err)
	}
	if f.admit != nil {
		mount := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/auth/"), "/login")
		if said := f.admit(mount, body); said != "" {
			fail(w, 400, said)
			return
		}
		body = nil
	} else if want, err := os.ReadFile(f.jwt); err != nil || body["jwt"] != strings.TrimSpace(string(want)) {
		f.t.Errorf("login with a token that is not the one in the file")
	}
	if body != nil && body["role"] != "payments" || f.role.gone {
		fail(w, 400, fmt.Sprintf("invalid role name %q", body["role"]))
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
	reply(w, map[string]any{"auth": map[string]any{
		"client_token": id, "accessor": "accessor-" + id[len(tokenPrefix):], "token_type": kind, "num_uses": token.role.uses,
		"renewable": !token.role.batch && !token.role.fixed, "lease_duration": int(time.Until(token.expires).Seconds()), "policies": []string{"default"},
	}})
}

func reply(w http.ResponseWriter, fields map[string]any) {
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
		if t.good() {
			n++
		}
	}
	return n
}

// wrapping answers as Vault does of what it has wrapped.
func (f *fakeVault) wrapping(w http.ResponseWriter, r *http.Request, what string) {
	token := r.Header.Get("X-Vault-Token")
	if what == "lookup" {
		var body struct{ Token string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || token != "" {
			f.t.Errorf("looking up a wrapping token: %v, with a token: %v", err, token != "")
		}
		token = body.Token
	}
	wrapped, ok := f.wrapped[token]
	switch {
	case !ok:
		fail(w, 400, "wrapping token is not valid or does not exist")
	case what == "lookup":
		reply(w, map[string]any{"data": map[string]any{"creation_path": wrapped.path, "creation_ttl": 60}})
	default:
		delete(f.wrapped, token)
		reply(w, map[string]any{"data": map[string]any{"secret_id": wrapped.secretID}})
	}
}
