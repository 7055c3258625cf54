package chaos

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

var soak = flag.Duration("soak", time.Minute, "how long the agents idle")

const (
	soakAgents  = 3
	soakRefresh = 20 * time.Second
	// An idle agent's memory goes up and down with the collector's rounds.
	mayGrow   = 1 << 20 // bytes
	soakReads = 4       // KV 1, KV 2, a key of transit, a static role
)

// Agents with something of every engine do nothing but keep it: they need no
// more of memory, files and calls at the end than at the beginning.
func TestSoak(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	db := vaulttest.StartPostgres(t)
	v.Database(db, 2*time.Minute, 24*time.Hour)
	db.Query(`CREATE ROLE static LOGIN PASSWORD 'first'`)
	v.Write("database/static-roles/static", map[string]any{"db_name": "postgres", "username": "static", "rotation_period": "24h"})
	v.Mount("pki", "pki", api.MountConfigInput{MaxLeaseTTL: "24h"})
	v.Write("pki/root/generate/internal", map[string]any{"common_name": "soak", "key_type": "ec", "key_bits": 256})
	v.Write("pki/roles/app", map[string]any{"allow_any_name": true, "key_type": "ec", "key_bits": 256, "max_ttl": "12h"})
	v.Mount("transit", "transit", api.MountConfigInput{})
	v.Write("transit/keys/app", nil)
	v.KV("app", map[string]any{"password": "password-of-kv-2"})
	v.KV("kv1/app", map[string]any{"password": "password-of-kv-1"})
	var agents []*vaulttest.Agent
	for i := range soakAgents {
		role := fmt.Sprint("app-", i)
		v.Role(role, vaulttest.Read("kv/data/app", "kv1/app", "database/creds/app", "database/static-creds/static",
			"pki/issue/app", "transit/keys/app", "transit/encrypt/app"), map[string]any{"token_ttl": "3m"})
		a := v.Agent(role,
			config.File{Path: "kv2.env", Secret: "kv/app", Format: config.FormatEnv},
			config.File{Path: "kv1.env", Secret: "kv1/app", Format: config.FormatEnv},
			config.File{Path: "db.env", Secret: "database/creds/app", Format: config.FormatEnv},
			config.File{Path: "static.env", Secret: "database/static-creds/static", Format: config.FormatEnv},
			config.File{Path: "key.json", Secret: "transit/keys/app", Format: config.FormatJSON},
			config.File{Path: "tls", Secret: "pki/issue/app", Data: map[string]any{"common_name": "app.shop.svc"},
				Files: map[string]string{"tls.crt": "certificate", "tls.key": "private_key", "ca.crt": "issuing_ca"}},
			config.File{Path: "sealed", Secret: "transit/encrypt/app", Data: map[string]any{"plaintext": "c29hay10aGUtYWdlbnQ="}, Format: config.FormatRaw, Key: "ciphertext"},
			config.File{Path: "both", Template: `{{ with secret "kv/app" }}{{ .Data.data.password }}{{ end }} {{ with secret "database/creds/app" }}{{ .Data.username }}{{ end }}`},
		)
		a.Config.Refresh = config.Duration(soakRefresh)
		a.Config.Log.Level = "info"
		a.Start()
		agents = append(agents, a)
	}
	for _, a := range agents {
		a.WaitReady()
	}
	// A first while, in which what is made once is made.
	idle(t, agents, soakRefresh+soakRefresh/2)
	calls, files := len(v.Calls()), agents[0].Files()
	began := idle(t, agents, *soak/10)
	middle := idle(t, agents, *soak*8/10)
	ended := idle(t, agents, *soak/10)
	asked := len(v.Calls()) - calls

	t.Logf("%-8s %9s %9s %6s %8s", "", "VmRSS", "RssAnon", "files", "threads")
	for _, phase := range []struct {
		name string
		need
	}{{"first", began}, {"between", middle}, {"last", ended}} {
		t.Logf("%-8s %5.1f MiB %5.2f MiB %6d %8d", phase.name, mib(phase.rss), mib(phase.anon), phase.files, phase.threads)
	}
	perHour := float64(asked) / soakAgents / soak.Hours()
	t.Logf("%d calls in %s: %.0f an hour of each agent, which reads %d secrets every %s", asked, *soak, perHour, soakReads, soakRefresh)
	if ended.anon > began.anon+mayGrow {
		t.Errorf("RssAnon was %.2f MiB and is %.2f MiB", mib(began.anon), mib(ended.anon))
	}
	if ended.files > began.files+2 || ended.threads > began.threads+4 {
		t.Errorf("open files were %d and are %d, threads %d and %d", began.files, ended.files, began.threads, ended.threads)
	}
	// Beside the reads: the token and the lease, each at most every minute.
	if most := soakReads*float64(time.Hour/soakRefresh)*1.15 + 3*60; perHour > most {
		t.Errorf("%.0f calls an hour, want at most %.0f", perHour, most)
	}
	if now := agents[0].Files(); fmt.Sprint(now) != fmt.Sprint(files) {
		t.Error("files have changed, though nothing has")
	}
	if n := v.Count("update auth/kubernetes/login"); n != soakAgents {
		t.Errorf("%d logins of %d agents", n, soakAgents)
	}
	if users := db.Users(); len(users) != soakAgents {
		t.Errorf("%d users of the database for %d agents", len(users), soakAgents)
	}
}

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }

// need is what a process needs; memory in bytes.
type need struct{ rss, anon, files, threads int }

// idle waits, and returns the median of what the agents needed meanwhile.
func idle(t *testing.T, agents []*vaulttest.Agent, d time.Duration) need {
	t.Helper()
	var samples []need
	vaulttest.Hold(t, d, "agents idle", func() error {
		for _, a := range agents {
			if !a.Running() {
				return fmt.Errorf("an agent has ended: %s", a.LastWords())
			}
			n, err := needs(a.PID())
			if err != nil {
				return err
			}
			samples = append(samples, n)
		}
		return nil
	})
	median := func(of func(need) int) int {
		var values []int
		for _, s := range samples {
			values = append(values, of(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return need{
		rss: median(func(n need) int { return n.rss }), anon: median(func(n need) int { return n.anon }),
		files: median(func(n need) int { return n.files }), threads: median(func(n need) int { return n.threads }),
	}
}

// needs reads /proc, whose sizes are in kB (proc_pid_status(5)).
func needs(pid int) (n need, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return n, err
	}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		value, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		switch name {
		case "VmRSS":
			n.rss = value << 10
		case "RssAnon":
			n.anon = value << 10
		case "Threads":
			n.threads = value
		}
	}
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	n.files = len(open)
	return n, err
}
