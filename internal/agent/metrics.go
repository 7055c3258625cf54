package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/version"
)

// MetricDoc describes a metric of the agent's.
type MetricDoc struct {
	Name string
	// Type is as in Prometheus' text format: counter or gauge.
	Type   string
	Labels []string
	Help   string
}

// MetricDocs lists the agent's metrics, sorted by name.
func MetricDocs() []MetricDoc {
	docs := make([]MetricDoc, len(metricTable))
	for i, m := range metricTable {
		docs[i] = m.MetricDoc
	}
	return docs
}

const (
	metricErrors        = "latchkey_agent_errors_total"
	metricNotifications = "latchkey_agent_notifications_total"
	metricProxy         = "latchkey_agent_proxy_requests_total"
	metricPublications  = "latchkey_agent_publications_total"
	metricRequests      = "latchkey_agent_vault_requests_total"
)

// metric is a row of the table of all metrics, by which they are served and
// documented. A counter's values are in the set; a gauge's is asked for, and
// left out where there is none.
type metric struct {
	MetricDoc
	value func(*view) (value float64, known bool)
}

var metricTable = []metric{
	{MetricDoc{"latchkey_agent_build_info", "gauge", []string{"version"}, "Always 1; the label is the release."}, nil},
	{MetricDoc{metricErrors, "counter", []string{"kind"}, "Things that did not work, each try counted: unavailable (Vault or the way to it), rate_limited, login, invalid_token, denied, missing, volume (the shared volume), other (such as a template that does not fit its secret)."}, nil},
	{MetricDoc{"latchkey_agent_last_success_timestamp_seconds", "gauge", nil, "When a secret was last read or renewed with success, in seconds since 1970; absent before that."}, func(v *view) (float64, bool) {
		return float64(v.lastSuccess.UnixMilli()) / 1000, !v.lastSuccess.IsZero()
	}},
	{MetricDoc{"latchkey_agent_missing", "gauge", nil, "Entries of required files whose secret does not exist at present. Their last content stays."}, func(v *view) (float64, bool) {
		return float64(v.missing), true
	}},
	{MetricDoc{metricNotifications, "counter", []string{"result"}, "Tries to tell an app that its files have changed: success or failure."}, nil},
	{MetricDoc{metricProxy, "counter", []string{"result"}, "Requests of apps to the proxy: passed (answered by Vault), shared (a leased answer that was given before), refused, unavailable."}, nil},
	{MetricDoc{metricPublications, "counter", nil, "Publications that changed a file."}, nil},
	{MetricDoc{"latchkey_agent_stale_seconds", "gauge", nil, "For how long the entry that has waited longest was to be read and could not be, in seconds; 0 where none waits."}, func(v *view) (float64, bool) {
		if v.staleSince.IsZero() {
			return 0, true
		}
		return max(time.Since(v.staleSince).Seconds(), 0), true
	}},
	{MetricDoc{"latchkey_agent_token_ttl_seconds", "gauge", nil, "What is left of the Vault token's life unless it is renewed, in seconds; +Inf for one without an end, 0 for one that has ended; absent before the first login."}, func(v *view) (float64, bool) {
		if v.tokenTTL == 0 {
			return math.Inf(1), v.loggedIn
		}
		return max(time.Until(v.tokenExpires).Seconds(), 0), v.loggedIn
	}},
	{MetricDoc{metricRequests, "counter", []string{"kind", "code"}, "Requests to Vault by what they are for (login, renew, lookup, revoke, lease, mount, read, write) and how they were answered (2xx, 3xx, 4xx, 5xx, or error for not at all)."}, nil},
}

// meter counts. What it counts by are few fixed words.
type meter struct {
	mu     sync.Mutex
	counts map[string]uint64 // by name and labels, as they are written
}

func newMeter() *meter {
	return &meter{counts: map[string]uint64{
		metricPublications: 0, // a counter that is there from the start shows its first step
		"latchkey_agent_build_info{" + label("version", version.Version) + "}": 1,
	}}
}

func (m *meter) inc(name string, labels ...string) {
	if len(labels) > 0 {
		name += "{" + strings.Join(labels, ",") + "}"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[name]++
}

func label(name, value string) string { return fmt.Sprintf("%s=%q", name, value) }

// problem counts one problem by its kind.
func (m *meter) problem(about string, p *Problem) {
	kind := "other"
	switch {
	case about == "volume":
		kind = "volume"
	case p.status == http.StatusTooManyRequests:
		kind = "rate_limited"
	case p.Everywhere:
		kind = "unavailable"
	case about == "token":
		kind = "login"
	case p.InvalidToken:
		kind = "invalid_token"
	case p.Denied:
		kind = "denied"
	case p.Missing:
		kind = "missing"
	}
	m.inc(metricErrors, label("kind", kind))
}

// sends makes a sender of notifications whose tries are counted.
func (m *meter) sends(send func(context.Context, config.Notification) error) func(context.Context, config.Notification) error {
	return func(ctx context.Context, to config.Notification) error {
		err := send(ctx, to)
		result := "success"
		if err != nil && !errors.As(err, new(partlySent)) {
			result = "failure"
		}
		m.inc(metricNotifications, label("result", result))
		return err
	}
}

// counted is a transport whose requests are counted.
type counted struct {
	next  http.RoundTripper
	meter *meter
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	code := "error"
	if err == nil {
		code = fmt.Sprintf("%dxx", resp.StatusCode/100)
	}
	c.meter.inc(metricRequests, label("kind", kindOf(r.Method, strings.TrimPrefix(r.URL.Path, "/v1/"))), label("code", code))
	return resp, err
}

// kindOf says what a request to Vault is for.
func kindOf(method, path string) string {
	auth := strings.HasPrefix(path, "auth/")
	switch {
	case auth && (strings.HasSuffix(path, "/login") || strings.Contains(path, "/login/")):
		return "login"
	case strings.HasPrefix(path, "auth/token/renew"):
		return "renew"
	case strings.HasPrefix(path, "auth/token/lookup"), path == "sys/wrapping/lookup":
		return "lookup"
	case strings.HasPrefix(path, "auth/token/revoke"), strings.HasPrefix(path, "sys/leases/revoke"), strings.HasPrefix(path, "sys/revoke"):
		return "revoke"
	case strings.HasPrefix(path, "sys/leases/"), strings.HasPrefix(path, "sys/renew"):
		return "lease"
	case strings.HasPrefix(path, "sys/internal/ui/mounts"):
		return "mount"
	case method == http.MethodGet, method == http.MethodHead, method == "LIST":
		return "read"
	}
	return "write"
}

// write writes all metrics in Prometheus' text format.
func (m *meter) write(w io.Writer, v *view) {
	m.mu.Lock()
	counts := maps.Clone(m.counts)
	m.mu.Unlock()
	for _, row := range metricTable {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", row.Name, row.Help, row.Name, row.Type)
		if row.value != nil {
			if value, known := row.value(v); known {
				fmt.Fprintf(w, "%s %g\n", row.Name, value)
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			if family, _, _ := strings.Cut(name, "{"); family == row.Name {
				fmt.Fprintf(w, "%s %d\n", name, counts[name])
			}
		}
	}
}
