// Package prom holds a program's metrics for Prometheus, with what docs/metrics.md
// says of them. The agent, which has no room for Prometheus' library, has its own way.
package prom

import (
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/latchkey-dev/latchkey/internal/version"
)

// Doc describes a metric.
type Doc struct {
	Name string
	// Type is as in Prometheus' text format: counter, gauge or histogram.
	Type   string
	Labels []string
	Help   string
}

// Set is the metrics of one program.
type Set struct {
	// Own has the program's own alone.
	Own *prometheus.Registry

	process *prometheus.Registry
	prefix  string
	docs    []Doc // of Own
}

// New begins a set with the build's version. The prefix is that of the names of
// the program's own, such as "latchkey_injector_".
func New(prefix string) *Set {
	s := &Set{Own: prometheus.NewRegistry(), process: prometheus.NewRegistry(), prefix: prefix}
	s.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.Gauge("build_info", "Always 1; the label is the release.", "version").WithLabelValues(version.Version).Set(1)
	return s
}

// Docs are the program's own metrics, sorted by name.
func (s *Set) Docs() []Doc {
	return slices.SortedFunc(slices.Values(s.docs), func(a, b Doc) int { return strings.Compare(a.Name, b.Name) })
}

// Counter is absent until it is used, for each of its labels' values.
func (s *Set) Counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: s.describe(name, "counter", help, labels), Help: help}, labels)
	s.Own.MustRegister(c)
	return c
}

// Gauge is absent until it is set, for each of its labels' values.
func (s *Set) Gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: s.describe(name, "gauge", help, labels), Help: help}, labels)
	s.Own.MustRegister(g)
	return g
}

// Histogram is there from the start.
func (s *Set) Histogram(name, help string, buckets ...float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: s.describe(name, "histogram", help, nil), Help: help, Buckets: buckets})
	s.Own.MustRegister(h)
	return h
}

// describe notes a metric and returns its full name.
func (s *Set) describe(name, kind, help string, labels []string) string {
	name = s.prefix + name
	s.docs = append(s.docs, Doc{Name: name, Type: kind, Labels: labels, Help: help})
	return name
}

// Handler serves the program's own metrics, those of its process and of Go's
// runtime, and those that libraries keep elsewhere.
func (s *Set) Handler(libraries ...prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(append(prometheus.Gatherers{s.Own, s.process}, libraries...), promhttp.HandlerOpts{})
}
