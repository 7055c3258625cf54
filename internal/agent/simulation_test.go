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
	simulated = flag.Int("agents", 300, "`number` of agents of the simulated outage")
	plotted   = flag.String("plot", "", "`file` to draw the simulated outages into, as SVG")
)

const (
	// Agents start at any time of an hour; when all have been running for a
	// while, Vault is down for ten minutes.
	starting = time.Hour
	settling = 10 * time.Minute
	outage   = 10 * time.Minute
	watched  = 30 * time.Minute // after Vault is back
	peakSpan = 5 * time.Second  // over which rates are taken
	peakOver = 3.0              // times the mean that a peak may be
)

// A comeback is how Vault is when it answers again.
type comeback struct {
	name, title string
	// dead means that it knows none of the tokens it gave before.
	dead bool
	// limited is for how long it answers 429, with what Retry-After.
	limited, retryAfter time.Duration
}

var comebacks = []comeback{
	{name: "valid", title: "tokens still valid"},
	{name: "dead", title: "no token known any more", dead: true},
	{name: "limited", title: "no token known, and 429 for a minute", dead: true, limited: time.Minute, retryAfter: 15 * time.Second},
}

// TestOutage lets many agents, each a whole one, live through an outage of one
// Vault, on a clock of their own. None may starve, and they may not come back
// all at once.
func TestOutage(t *testing.T) {
	var seen []*observation
	for _, c := range comebacks {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := observe(t, c, *simulated)
				o.judge(t)
				t.Log(o)
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

// observation is what Vault and the agents saw of one outage. Times are since
// Vault came back.
type observation struct {
	comeback
	agents   int
	steady   float64 // requests a second before the outage
	during   float64 // the same while Vault was down
	logins   []time.Duration
	requests []time.Duration
	well     []time.Duration // by agent; below zero where it never was
}

// herd is the way of many agents to one Vault.
type herd struct {
	*fakeVault
	mu    sync.Mutex
	back  time.Time // when Vault is back; zero before the outage
	until time.Time // when it stops answering 429
	o     *observation
	calls []time.Time // before the outage is over
}

// member is the way of one agent.
type member struct {
	*herd
	number int
}

func (m member) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	now := time.Now()
	since := now.Sub(m.back)
	up := !m.back.IsZero() && since >= 0
	limited := up && now.Before(m.until)
	login := strings.HasSuffix(r.URL.Path, "/login")
	if up {
		m.o.requests = append(m.o.requests, since)
	} else {
		m.calls = append(m.calls, now)
	}
	retryAfter := m.o.retryAfter
	m.mu.Unlock()
	if limited {
		return (&http.Response{StatusCode: http.StatusTooManyRequests, Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Retry-After": {strconv.Itoa(int(retryAfter.Seconds()))}},
			Body:   io.NopCloser(strings.NewReader(`{"errors":["rate limit quota exceeded"]}`))}), nil
	}
	resp, err := m.fakeVault.RoundTrip(r)
	if up && err == nil && resp.StatusCode == http.StatusOK {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case login:
			m.o.logins = append(m.o.logins, since)
		case r.URL.Path == "/v1/kv/data/app" && m.o.well[m.number] < 0:
			m.o.well[m.number] = since
		}
	}
	return resp, err
}

// observe runs agents through an outage.
func observe(t *testing.T, c comeback, agents int) *observation {
	o := &observation{comeback: c, agents: agents, well: make([]time.Duration, agents)}
	for i := range o.well {
		o.well[i] = -1
	}
	p := newPod(t, env("db.env", "kv/app"))
	p.conf.RevokeOnExit = new(bool)
	h := &herd{fakeVault: p.vault, o: o}
	var running sync.WaitGroup
	dirs := make([]string, agents)
	for i := range agents {
		dirs[i] = filepath.Join(p.dir, strconv.Itoa(i))
		if err := os.Mkdir(dirs[i], 0o700); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			time.Sleep(rand.N(starting))
			v, err := volume.Open(dirs[i])
			if err != nil {
				t.Error(err)
				return
			}
			defer v.Close()
			a, err := New(p.conf, v, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(err)
				return
			}
			a.transport, a.rest = member{h, i}, func() {}
			if err := a.Run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	after(starting + settling)
	for i, dir := range dirs {
		if got, err := os.ReadFile(filepath.Join(dir, "out", "db.env")); err != nil || string(got) != appEnv {
			t.Fatalf("agent %d before the outage: %q, %v", i, got, err)
		}
	}
	down := time.Now()
	h.set(func() { h.cut = true })
	after(outage)
	h.set(func() {
		h.cut = false
		if c.dead {
			clear(h.tokens)
		}
	})
	h.mu.Lock()
	h.back = time.Now()
	h.until = h.back.Add(c.limited)
	h.mu.Unlock()
	after(watched)

	h.mu.Lock()
	defer h.mu.Unlock()
	const before = settling / 2
	for _, at := range h.calls {
		switch {
		case !at.Before(down):
			o.during += 1 / outage.Seconds()
		case down.Sub(at) <= before:
			o.steady += 1 / before.Seconds()
		}
	}
	for i, dir := range dirs {
		if got, err := os.ReadFile(filepath.Join(dir, "out", "db.env")); err != nil || string(got) != appEnv {
			t.Errorf("agent %d after the outage: %q, %v", i, got, err)
		}
	}
	return o
}

// rates sorts events into spans of peakSpan and returns how many a second each
// had.
func rates(events []time.Duration, until time.Duration) []float64 {
	r := make([]float64, until/peakSpan)
	for _, at := range events {
		if i := int(at / peakSpan); i < len(r) {
			r[i] += 1 / peakSpan.Seconds()
		}
	}
	return r
}

// spread is from when to when agents came back: from the first of the events
// to the last. Requests come first at once and go on for ever: theirs is until
// the last agent was well.
func spread2(events []time.Duration) (from, to time.Duration) {
	for i, at := range events {
		if i == 0 || at < from {
			from = at
		}
		to = max(to, at)
	}
	return from, to
}

func (o *observation) String() string {
	from, to := spread2(o.logins)
	last := slices.Max(o.well)
	peak := slices.Max(rates(o.logins, watched))
	mean := float64(len(o.logins)) / max((to-from).Seconds(), 1)
	rpeak := slices.Max(rates(o.requests, watched))
	n := 0
	for _, at := range o.requests {
		if at <= last {
			n++
		}
	}
	rmean := float64(n) / last.Seconds()
	echo := slices.Max(rates(o.requests, watched)[int(3*time.Minute/peakSpan):])
	return fmt.Sprintf("%s: steady %.1f/s during %.1f/s; logins %d from %s to %s: peak %.1f/s mean %.1f/s = %.2f; requests peak %.1f/s mean %.1f/s = %.2f later %.1f; last well %s",
		o.name, o.steady, o.during, len(o.logins), from, to, peak, mean, peak/mean, rpeak, rmean, rpeak/rmean, echo, last)
}

func (o *observation) judge(t *testing.T) {}
func drawOutages([]*observation) []byte   { return nil }
