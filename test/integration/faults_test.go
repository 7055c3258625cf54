package integration

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/cluster/faultproxy"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// patient is an agent that something happens to, and an app that reads its files
// all the while.
type patient struct {
	*vaulttest.Agent
	t       *testing.T
	vault   *vaulttest.Vault
	proxy   *faultproxy.Proxy // between the two, where the test wanted one
	values  int               // how many the secrets have had
	witness *witness
}

// newPatient makes a patient that is not started yet.
func newPatient(t *testing.T, v *vaulttest.Vault, role map[string]any) *patient {
	t.Helper()
	v.Role("app", vaulttest.Read("kv/data/*"), role)
	p := &patient{t: t, vault: v}
	p.change(v)
	p.Agent = v.Agent("app",
		config.File{Path: "app.env", Secret: "kv/app", Format: config.FormatEnv},
		config.File{Path: "set", Secret: "kv/set", Files: map[string]string{"a": "a", "b": "b"}},
		config.File{Path: "optional", Secret: "kv/optional", Format: config.FormatEnv, Optional: true},
	)
	return p
}

// behindProxy puts a proxy that can misbehave before Vault.
func (p *patient) behindProxy() *patient {
	p.t.Helper()
	target, err := url.Parse(p.vault.Address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.proxy = faultproxy.New("127.0.0.1:0", nil, target, p.vault.Transport())
	if err := p.proxy.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.proxy.Close() })
	p.Config.Vault.Address = "http://" + p.proxy.Address()
	return p
}

// start starts the agent, and the app as soon as there are files.
func (p *patient) start() *patient {
	p.t.Helper()
	p.Start()
	p.WaitReady()
	p.witness = watch(p.t, p)
	return p
}

func (p *patient) value() string { return fmt.Sprintf("value-of-the-secret-%d", p.values) }

// change gives all secrets another value.
func (p *patient) change(v *vaulttest.Vault) {
	p.t.Helper()
	p.values++
	v.KV("app", map[string]any{"password": p.value()})
	v.KV("set", map[string]any{"a": p.value(), "b": p.value()})
	v.KV("optional", map[string]any{"key": p.value()})
}

// suffers waits until the agent says, since the offset of its log, that
// something is wrong.
func (p *patient) suffers(since int, parts ...string) {
	p.t.Helper()
	p.WaitLog(since, append(parts, `"someoneMustAct":`)...)
}

// mustRecover waits until the agent has what is in Vault now, and shows that
// nothing was lost on the way.
func (p *patient) mustRecover(logins int) {
	p.t.Helper()
	began := time.Now()
	p.change(p.vault)
	p.WaitFile("app.env", "password='"+p.value()+"'\n")
	p.WaitFile("set/a", p.value())
	p.WaitFile("optional", "key='"+p.value()+"'\n")
	p.t.Logf("recovered within %s", time.Since(began).Round(100*time.Millisecond))
	p.mustBeWhole(logins)
}

// mustBeWhole checks all that must be true whatever has happened.
func (p *patient) mustBeWhole(logins int) {
	p.t.Helper()
	if !p.Running() {
		p.t.Errorf("the agent has ended: %s", p.LastWords())
	}
	p.witness.dismiss()
	granted, token := 0, ""
	for _, e := range p.vault.Audit() {
		switch {
		case strings.HasSuffix(e.Path, "/login") && e.Role != "" && e.Error == "":
			granted++
			token = e.Accessor
		case e.Path == "auth/token/revoke-self" && e.Accessor != token:
			// It was replaced.
		case strings.Contains(e.Path, "revoke"):
			p.t.Errorf("the agent has revoked what was good: %s", e)
		}
	}
	if granted > logins {
		p.t.Errorf("%d logins, want at most %d", granted, logins)
	}
}

// witness reads the files all the while.
type witness struct {
	t          *testing.T
	stop, done chan struct{}
	reads      int
	wrong      []string
}

func watch(t *testing.T, p *patient) *witness {
	w := &witness{t: t, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			w.reads++
			if err := p.whole(); err != nil && len(w.wrong) < 5 {
				w.wrong = append(w.wrong, fmt.Sprintf("%s: %v", time.Now().Format(time.StampMilli), err))
			}
		}
	}()
	t.Cleanup(w.dismiss)
	return w
}

// dismiss ends the watch and tells what was seen.
func (w *witness) dismiss() {
	select {
	case <-w.stop:
		return
	default:
	}
	close(w.stop)
	<-w.done
	for _, wrong := range w.wrong {
		w.t.Errorf("what an app saw: %s", wrong)
	}
	if w.reads == 0 {
		w.t.Error("no app has read anything")
	}
}

// whole reports files that are missing, empty, or of two sets.
func (p *patient) whole() error {
	link := filepath.Join(p.Volume, config.FilesName, "..data")
	before, err := os.Readlink(link)
	if err != nil {
		return err
	}
	content := make(map[string]string)
	for _, path := range p.Config.Paths() {
		var e error
		content[path], e = p.File(path)
		if e == nil && content[path] == "" {
			e = fmt.Errorf("%s is empty", path)
		}
		err = errors.Join(err, e)
	}
	if after, e := os.Readlink(link); e == nil && after != before {
		return nil // published meanwhile: names led to two sets
	}
	if content["set/a"] != content["set/b"] {
		err = errors.Join(err, fmt.Errorf("set/a is %q and set/b %q", content["set/a"], content["set/b"]))
	}
	return err
}

func proxied(t *testing.T) *patient {
	t.Helper()
	return newPatient(t, vaulttest.Start(t, vaulttest.Options{}), nil).behindProxy().start()
}

func (p *patient) set(m faultproxy.Mode) {
	p.t.Helper()
	if err := p.proxy.Set(m); err != nil {
		p.t.Fatal(err)
	}
}

// Whatever happens to the server: the token is good for more.
func TestFaultVaultDown(t *testing.T) {
	for name, fault := range map[string]struct {
		down, up func(*vaulttest.Vault)
	}{
		"killed":  {(*vaulttest.Vault).Kill, (*vaulttest.Vault).Restart},
		"stopped": {(*vaulttest.Vault).Stop, (*vaulttest.Vault).Restart},
		"sealed":  {(*vaulttest.Vault).Seal, (*vaulttest.Vault).Unseal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t, vaulttest.Start(t, vaulttest.Options{}), nil).start()
			since := len(p.Log())
			fault.down(p.vault)
			p.suffers(since)
			fault.up(p.vault)
			p.mustRecover(1)
		})
	}
}

// Between agent and Vault.
func TestFaultWay(t *testing.T) {
	for name, mode := range map[string]faultproxy.Mode{
		"500":     {Fault: "status", Status: 500},
		"503":     {Fault: "status", Status: 503},
		"cut":     {Fault: "cut"},
		"refused": {Fault: "refuse"},
		"silent":  {Fault: "slow", Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t, vaulttest.Start(t, vaulttest.Options{}), nil).behindProxy()
			p.Config.Vault.Timeout = config.Duration(3 * time.Second)
			p.start()
			since := len(p.Log())
			p.set(mode)
			p.suffers(since)
			p.set(faultproxy.Mode{})
			p.mustRecover(1)
		})
	}
}

// A Vault that takes seconds for each answer serves all the same.
func TestFaultSlow(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	since := len(p.Log())
	p.set(faultproxy.Mode{Fault: "slow", Delay: 2 * time.Second})
	p.mustRecover(1)
	if strings.Contains(p.Log()[since:], "someoneMustAct") {
		t.Errorf("the agent complains:\n%s", p.Log()[since:])
	}
}

// An agent that is told when to come again does not come earlier.
func TestFaultRetryAfter(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	since := len(p.Log())
	p.set(faultproxy.Mode{Fault: "status", Status: 429, RetryAfter: 15})
	p.suffers(since, "429")
	_, told := p.proxy.Counts()
	// Its own pause would be over in half a second.
	vaulttest.Hold(t, 5*time.Second, "told to come again after 15 s", func() error {
		if _, now := p.proxy.Counts(); now > told {
			return fmt.Errorf("it asked %d times more", now-told)
		}
		return nil
	})
	p.set(faultproxy.Mode{})
	p.mustRecover(1)
}

// A standby's 307 says nothing about a secret: nothing is gone.
func TestFaultRaftFailover(t *testing.T) {
	t.Parallel()
	first := vaulttest.Start(t, vaulttest.Options{Raft: true})
	others := []*vaulttest.Vault{first.Join(), first.Join()}
	p := newPatient(t, first, map[string]any{"token_ttl": "20s"})
	service := balance(t, first)
	p.Config.Vault.Address = service.url
	p.start()
	since := len(p.Log())
	first.Kill()
	var active, standby *vaulttest.Vault
	vaulttest.Wait(t, "another node to take over", func() error {
		for i, n := range others {
			if n.Active() {
				active, standby = n, others[1-i]
				return nil
			}
		}
		return errors.New("none is active")
	})
	service.send(standby)
	p.WaitLog(since, "307")
	service.send(active)
	began := time.Now()
	p.change(active)
	p.WaitFile("app.env", "password='"+p.value()+"'\n")
	p.WaitFile("optional", "key='"+p.value()+"'\n")
	t.Logf("recovered within %s", time.Since(began).Round(100*time.Millisecond))
	p.mustBeWhole(1)
}

// A CA that is replaced reaches a running agent through its file.
func TestFaultCARotated(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	p := newPatient(t, v, nil)
	file := filepath.Join(t.TempDir(), "ca.crt")
	write(t, file, v.Authority.PEM())
	p.Config.Vault.CAFile = file
	p.start()
	since := len(p.Log())
	v.RotateCA()
	// Connections that are open outlive their certificate's CA.
	v.Kill()
	v.Restart()
	p.suffers(since, "certificate")
	write(t, file, v.Authority.PEM())
	p.mustRecover(1)
}

func TestFaultTokenRevoked(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	p := newPatient(t, v, nil).start()
	for _, e := range v.Audit() {
		if strings.HasSuffix(e.Path, "/login") {
			v.Write("auth/token/revoke-accessor", map[string]any{"accessor": e.Accessor})
		}
	}
	p.mustRecover(2)
}

func TestFaultRoleDeleted(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	short := map[string]any{"token_ttl": "6s"}
	p := newPatient(t, v, short).start()
	since := len(p.Log())
	v.Delete("auth/kubernetes/role/app")
	p.suffers(since, "invalid role name")
	v.Role("app", vaulttest.Read("kv/data/*"), map[string]any{"token_ttl": "1h"})
	p.mustRecover(2)
}

func TestFaultPolicyTakenAway(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	p := newPatient(t, v, nil).start()
	since := len(p.Log())
	v.Policy("app", vaulttest.Read("kv/data/nothing"))
	p.suffers(since, "permission denied")
	v.Policy("app", vaulttest.Read("kv/data/*"))
	p.mustRecover(1)
}

// The token is about to end when the identity to log in with is not there.
func TestFaultIdentity(t *testing.T) {
	for name, lose := range map[string]func(*patient){
		"missing": func(p *patient) {
			if err := os.Remove(p.Token); err != nil {
				p.t.Fatal(err)
			}
		},
		"empty":   func(p *patient) { write(p.t, p.Token, "") },
		"expired": func(p *patient) { p.SetToken(p.vault.Kubernetes.Token("app", -time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vaulttest.Start(t, vaulttest.Options{})
			p := newPatient(t, v, map[string]any{"token_ttl": "6s", "token_max_ttl": "6s"}).start()
			since := len(p.Log())
			lose(p)
			p.suffers(since, "logging in")
			// Until the old token is over as well.
			p.suffers(since, "invalid token")
			v.Role("app", vaulttest.Read("kv/data/*"), map[string]any{"token_max_ttl": "2h"})
			p.SetToken(v.Kubernetes.Token("app", time.Hour))
			// Each login before the loss was of six seconds.
			p.mustRecover(99)
		})
	}
}

// Where the volume is full the old files stay, and the agent says so.
func TestFaultDiskFull(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	p := newPatient(t, v, nil)
	p.Volume = vaulttest.Tmpfs(t, "256k")
	p.start()
	since := len(p.Log())
	filler := filepath.Join(p.Volume, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the volume is larger than it should be")
	}
	p.change(v)
	p.suffers(since, "no space left on device", "sizeLimit")
	if got, _ := p.File("app.env"); got != "password='value-of-the-secret-1'\n" {
		t.Errorf("app.env is %q", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	p.mustRecover(1)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// A database that is down when a lease is due to be renewed costs nobody a user.
func TestFaultDatabaseDown(t *testing.T) {
	t.Parallel()
	v := vaulttest.Start(t, vaulttest.Options{})
	db := vaulttest.StartPostgres(t)
	v.Database(db, 30*time.Second, time.Hour)
	p := newPatient(t, v, nil)
	v.Role("app", vaulttest.Read("kv/data/*", "database/creds/app"), nil)
	p.Config.Files = append(p.Config.Files, config.File{
		Path: "db.env", Mode: 0o440, Secret: "database/creds/app", Format: config.FormatEnv,
	})
	p.start()
	before, err := p.File("db.env")
	if err != nil {
		t.Fatal(err)
	}
	since := len(p.Log())
	db.Kill()
	p.suffers(since, "db.env")
	db.Start()
	renewed := v.Count("update sys/leases/renew")
	vaulttest.Wait(t, "the lease to be renewed", func() error {
		return atLeast(v, renewed+1, "update sys/leases/renew")
	})
	p.mustRecover(1)
	if users := db.Users(); len(users) != 1 {
		t.Errorf("users of the database: %q, want one", users)
	}
	if now, err := p.File("db.env"); now != before {
		t.Errorf("db.env has changed (%v)", err)
	}
	wantCount(t, v, 1, "read database/creds/app")
}
