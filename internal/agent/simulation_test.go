package agent

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
)

var (
	simulated = flag.Int("agents", 200, "`number` of agents of the simulated outages")
	plotted   = flag.String("plot", "", "`file` to draw the simulated outages into, as SVG")
)

const (
	// Agents start at any time of an hour. When all have been running for a
	// while, Vault goes down.
	startSpan = time.Hour
	settling  = 10 * time.Minute
	outage    = 10 * time.Minute
	watched   = 15 * time.Minute // after Vault is back

	// peakFactor is how many times the mean a peak may be.
	peakFactor = 3.0
	// callsInOutage bounds what one agent asks of a Vault that is down.
	callsInOutage = 20
)

// A comeback is how Vault is when it answers again.
type comeback struct {
	name, title string
	// forgetful means that it knows none of the tokens it gave before.
	forgetful bool
	// limited is for how long it answers 429, with what Retry-After.
	limited, retryAfter time.Duration
}

var comebacks = []comeback{
	{name: "kept", title: "Every token is still valid"},
	{name: "forgotten", title: "Restored without its tokens", forgetful: true},
	{name: "limited", title: "Without its tokens, and 429 for a minute", forgetful: true, limited: time.Minute, retryAfter: 15 * time.Second},
}

// TestOutage lets many agents, each a whole one, live through an outage of their
// one Vault, on a clock of their own. They may not all come back at once, and
// none may starve.
func TestOutage(t *testing.T) {
	var seen []*observation
	for _, c := range comebacks {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := observe(t, c, *simulated)
				t.Log(o)
				o.judge(t)
				seen = append(seen, o)
			})
		})
	}
	if *plotted != "" && !t.Failed() {
		if err := os.WriteFile(*plotted, drawOutages(seen), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// visit is one call to Vault.
type visit struct {
	at    time.Duration // since Vault came back
	login bool          // that was granted
}

// observation is one outage as seen by Vault and the agents.
type observation struct {
	comeback
	agents   int
	requests []visit
	well     []time.Duration // by agent: its first read since Vault came back; -1 where it never was
}

// herd is all agents' way to their one Vault.
type herd struct {
	*fakeVault
	o    *observation
	back time.Time // when Vault comes back

	mu sync.Mutex // protects o
}

// member is the way of one agent.
type member struct {
	*herd
	number int
}

func (m member) RoundTrip(r *http.Request) (*http.Response, error) {
	at := time.Since(m.back)
	resp, err := m.answer(r, at)
	ok := err == nil && resp.StatusCode == http.StatusOK
	m.mu.Lock()
	defer m.mu.Unlock()
	m.o.requests = append(m.o.requests, visit{at, ok && strings.HasSuffix(r.URL.Path, "/login")})
	if ok && at >= 0 && r.URL.Path == "/v1/kv/data/app" && m.o.well[m.number] < 0 {
		m.o.well[m.number] = at
	}
	return resp, err
}

func (m member) answer(r *http.Request, at time.Duration) (*http.Response, error) {
	if at < 0 || at >= m.o.limited {
		return m.fakeVault.RoundTrip(r)
	}
	return &http.Response{
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		StatusCode: http.StatusTooManyRequests,
		Header:     http.Header{"Retry-After": {strconv.Itoa(int(m.o.retryAfter.Seconds()))}},
		Body:       io.NopCloser(strings.NewReader(`{"errors":["rate limit quota exceeded"]}`)),
	}, nil
}

// observe runs agents through an outage.
func observe(t *testing.T, c comeback, agents int) *observation {
	o := &observation{comeback: c, agents: agents, well: slices.Repeat([]time.Duration{-1}, agents)}
	p := newPod(t, env("db.env", "kv/app"))
	p.conf.RevokeOnExit = new(bool)
	h := &herd{fakeVault: p.vault, o: o, back: time.Now().Add(startSpan + settling + outage)}
	dirs, root := make([]string, agents), memoryDir(t)
	for i := range agents {
		dirs[i] = filepath.Join(root, strconv.Itoa(i))
		go func() {
			time.Sleep(rand.N(startSpan))
			if err := live(t, p, member{h, i}, dirs[i]); err != nil {
				t.Error(err)
			}
		}()
	}
	files := func(when string) {
		for i, dir := range dirs {
			if got, err := os.ReadFile(filepath.Join(dir, "out", "db.env")); err != nil || string(got) != appEnv {
				t.Fatalf("%s the outage, agent %d has %q (%v)", when, i, got, err)
			}
		}
	}
	after(startSpan + settling)
	files("before")
	h.set(func() { h.cut = true })
	after(outage - time.Nanosecond)
	files("in")
	h.set(func() {
		h.cut = false
		if c.forgetful {
			clear(h.tokens)
		}
	})
	after(watched)
	files("after")

	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(o.requests, func(a, b visit) int { return int(a.at - b.at) })
	return o
}

// memoryDir is a directory in memory, as the agent's volume is one: on a disk,
// what thousands of agents write and flush would take minutes.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-simulation-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// live is the life of one agent.
func live(t *testing.T, p *pod, way http.RoundTripper, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	v, err := volume.Open(dir)
	if err != nil {
		return err
	}
	defer v.Close()
	a, err := New(p.conf, v, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	a.transport, a.rest = way, func() {}
	return a.Run(t.Context())
}

// between are the times of requests from one to another, the latter excluded.
func (o *observation) between(from, to time.Duration, which func(visit) bool) (at []time.Duration) {
	for _, r := range o.requests {
		if r.at >= from && r.at < to && which(r) {
			at = append(at, r.at)
		}
	}
	return at
}

func all(visit) bool                       { return true }
func (r visit) isLogin() bool              { return r.login }
func (o *observation) last() time.Duration { return slices.Max(o.well) + 1 }

// A crowd is how the events of a time are spread over it.
type crowd struct {
	n          int
	from, to   time.Duration
	peak, mean float64 // a second
}

// crowdOf takes the peak over a span that is long enough for chance not to make
// it where there are few events.
func (o *observation) crowdOf(events []time.Duration) (c crowd) {
	if len(events) == 0 {
		return c
	}
	span := max(1, time.Duration(6000/o.agents)) * time.Second
	c.n, c.from, c.to = len(events), events[0], events[len(events)-1]
	c.mean = float64(c.n) / max(c.to-c.from, span).Seconds()
	counts := make(map[time.Duration]int)
	for _, at := range events {
		counts[(at-c.from)/span]++
	}
	for _, n := range counts {
		c.peak = max(c.peak, float64(n)/span.Seconds())
	}
	return c
}

func (c crowd) String() string {
	return fmt.Sprintf("%d from %.1f s to %.1f s: mean %.1f/s, peak %.1f/s, %.1f times the mean", c.n, c.from.Seconds(), c.to.Seconds(), c.mean, c.peak, c.peak/c.mean)
}

func (o *observation) String() string {
	steady := o.between(-outage-settling/2, -outage, all)
	during := o.between(-outage, 0, all)
	text := fmt.Sprintf("%s, %d agents\n", o.title, o.agents)
	text += fmt.Sprintf("  requests before: %.1f/s\n", float64(len(steady))/(settling/2).Seconds())
	text += fmt.Sprintf("  requests while Vault was down: %.1f/s, %.1f of each agent\n", float64(len(during))/outage.Seconds(), float64(len(during))/float64(o.agents))
	text += fmt.Sprintf("  requests until the last agent was well: %s\n", o.crowdOf(o.between(0, o.last(), all)))
	if logins := o.between(0, watched, visit.isLogin); len(logins) > 0 {
		text += fmt.Sprintf("  logins: %s\n", o.crowdOf(logins))
	}
	return text + fmt.Sprintf("  last agent well after %.1f s", slices.Max(o.well).Seconds())
}

func (o *observation) judge(t *testing.T) {
	if i := slices.Index(o.well, -1); i >= 0 {
		t.Errorf("agent %d was never well again", i)
	}
	// Who asked just before Vault was there for all waits as long as there is.
	if latest := o.limited + o.retryAfter + longestLater + 5*time.Second; o.last() > latest {
		t.Errorf("the last agent was well after %s, want at most %s", o.last(), latest)
	}
	if n := len(o.between(-outage, 0, all)); n > callsInOutage*o.agents {
		t.Errorf("%d calls to a Vault that is down, want at most %d of each agent", n, callsInOutage)
	}
	logins := o.between(0, watched, visit.isLogin)
	if want := map[bool]int{true: o.agents}[o.forgetful]; len(logins) != want {
		t.Errorf("%d logins, want %d", len(logins), want)
	}
	for what, events := range map[string][]time.Duration{"logins": logins, "requests": o.between(0, o.last(), all)} {
		if c := o.crowdOf(events); c.peak > peakFactor*c.mean {
			t.Errorf("the peak of %s is %.1f times the mean, want at most %.0f", what, c.peak/c.mean, peakFactor)
		}
	}
}
