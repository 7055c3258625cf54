package authconfig

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
	"github.com/latchkey-dev/latchkey/internal/prom"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// MetricDocs lists authconfig's own metrics, sorted by name.
func MetricDocs() []prom.Doc { return newMetrics().Docs() }

// metrics are authconfig's own, and the process's.
type metrics struct {
	*prom.Set

	leader      *prometheus.GaugeVec
	reconciles  *prometheus.CounterVec
	duration    prometheus.Histogram
	lastSuccess *prometheus.GaugeVec
	roles       *prometheus.GaugeVec
	invalid     *prometheus.GaugeVec
	refused     *prometheus.GaugeVec
	writes      *prometheus.CounterVec
	drift       *prometheus.CounterVec
	expires     *prometheus.GaugeVec
	rotations   *prometheus.CounterVec
	probes      *prometheus.CounterVec
	logins      *prometheus.CounterVec
}

// The values of the label result.
const (
	success    = "success"
	incomplete = "incomplete" // nothing failed, but not all that is wanted can be
	failure    = "failure"
)

func newMetrics() *metrics {
	m := &metrics{Set: prom.New("latchkey_authconfig_")}
	m.leader = m.Gauge("leader", "1 if this replica keeps the mount, 0 if it waits to take over.")
	m.leader.WithLabelValues().Set(0)
	m.reconciles = m.Counter("reconciles_total", "Looks at cluster and Vault with what they led to, by result: success, incomplete (a role is invalid, or something is refused), failure.", "result")
	m.duration = m.Histogram("reconcile_duration_seconds", "Time of one.", .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)
	m.lastSuccess = m.Gauge("last_success_timestamp_seconds", "When one last ended in which nothing failed, in seconds since 1970; absent before, and on a replica that waits.")
	m.roles = m.Gauge("roles", "Roles of the source ConfigMaps by state: kept, invalid (left as they were), refused (somebody else's).", "state")
	m.invalid = m.Gauge("invalid_role", "Always 1, for each role that cannot be understood or may not be granted; role is \"\" for a ConfigMap as a whole. At most 100 of a ConfigMap are there; the state invalid of roles counts all.", "source", "role")
	m.refused = m.Gauge("refused", "What is wanted and not done, since it is not authconfig's, by its kind.", "kind")
	m.writes = m.Counter("writes_total", "Changes in Vault and in the cluster by kind, verb and result.", "kind", "verb", "result")
	m.drift = m.Counter("drift_repaired_total", "Changes by others in Vault that were put back, by kind.", "kind")
	m.expires = m.Gauge("reviewer_token_expires_timestamp_seconds", "End of the reviewer token in Vault, in seconds since 1970; absent where it has none.")
	m.rotations = m.Counter("reviewer_rotations_total", "Reviewer tokens that were given to Vault, by result: the first one, one that is due, and one with each change of the config. None in the modes without.", "result")
	m.probes = m.Counter("reviewer_probes_total", "Logins that were tried to prove the mount, by result; a replacement may take several.", "result")
	m.logins = m.Counter("vault_logins_total", "Logins of authconfig itself, by result.", "result")
	for _, of := range []*prometheus.CounterVec{m.rotations, m.probes, m.logins} {
		of.WithLabelValues(success)
		of.WithLabelValues(failure)
	}
	for _, result := range []string{success, incomplete, failure} {
		m.reconciles.WithLabelValues(result)
	}
	return m
}

func resultOf(err error) string {
	if err != nil {
		return failure
	}
	return success
}

// loggedIn counts a login of authconfig itself.
func (m *metrics) loggedIn(err error) { m.logins.WithLabelValues(resultOf(err)).Inc() }

// observe counts a round.
func (m *metrics) observe(r *Round, took time.Duration) {
	m.duration.Observe(took.Seconds())
	result := resultOf(r.Err)
	if r.Err == nil {
		m.lastSuccess.WithLabelValues().SetToCurrentTime()
		if !r.Complete() {
			result = incomplete
		}
	}
	m.reconciles.WithLabelValues(result).Inc()
	// Without a record nothing is known of the token, which ends all the same.
	if now := r.Record.Reviewer; now.Mode != "" {
		m.expires.Reset()
		if !now.Expires.IsZero() {
			m.expires.WithLabelValues().Set(float64(now.Expires.Unix()))
		}
	}
	if r.Look == nil {
		return // of all else is known what was known before
	}
	for _, done := range r.Results {
		s := done.Step
		m.writes.WithLabelValues(string(s.Kind), string(s.Verb), resultOf(done.Err)).Inc()
		if s.Drift && done.Err == nil {
			m.drift.WithLabelValues(string(s.Kind)).Inc()
		}
		if s.Kind == plan.KindConfig && r.Token {
			m.rotations.WithLabelValues(resultOf(done.Err)).Inc()
		}
	}
	m.state(r)
}

// mostSeries is how many invalid roles of one ConfigMap have a series each.
const mostSeries = 100

// state sets what is wrong now.
func (m *metrics) state(r *Round) {
	type key struct{ source, key string }
	invalid, series, refusedRoles := map[key]bool{}, map[string]int{}, 0
	m.invalid.Reset()
	for _, p := range r.Plan.Problems {
		k := key{p.Source, p.Key}
		if invalid[k] {
			continue
		}
		invalid[k] = true
		if series[p.Source]++; series[p.Source] <= mostSeries {
			m.invalid.WithLabelValues(p.Source, p.Key).Set(1)
		}
	}
	for k := range invalid {
		if k.key == "" {
			delete(invalid, k) // that is no role
		}
	}
	m.refused.Reset()
	for _, f := range r.Plan.Refused {
		m.refused.WithLabelValues(string(f.Kind)).Inc()
		if f.Kind == plan.KindRole {
			refusedRoles++
		}
	}
	m.roles.WithLabelValues("invalid").Set(float64(len(invalid)))
	m.roles.WithLabelValues("refused").Set(float64(refusedRoles))
	m.roles.WithLabelValues("kept").Set(float64(max(0, r.Roles-refusedRoles)))
}

// counted counts the logins that prove the mount.
type counted struct {
	vault.API
	*metrics
}

func (c counted) Probe(ctx context.Context, role string, jwt sealed.Value[string]) error {
	err := c.API.Probe(ctx, role, jwt)
	c.probes.WithLabelValues(resultOf(err)).Inc()
	return err
}
