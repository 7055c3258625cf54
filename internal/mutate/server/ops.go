package server

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/version"
)

// opsHandler serves probes and metrics.
func (s *server) opsHandler() http.Handler {
	r := mux.NewRouter()
	get := r.Methods(http.MethodGet, http.MethodHead).Subrouter()
	get.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	get.HandleFunc("/readyz", s.readyz)
	get.Handle("/metrics", s.metrics.handler())
	return r
}

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	if state := *s.state.Load(); state != "" {
		http.Error(w, "not ready: "+state, http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ready")
	// An old configuration serves better than none: said, but no reason to stop.
	if problem := *s.config.problem.Load(); problem != "" {
		_, _ = fmt.Fprintln(w, "the last good configuration is in use:", problem)
	}
}

// metrics are the injector's own; those of the webhook server and of the Go
// runtime come from controller-runtime's registry.
type metrics struct {
	registry         *prometheus.Registry
	admissions       *prometheus.CounterVec
	duration         prometheus.Histogram
	certificate      prometheus.Gauge
	configGeneration prometheus.Gauge
	configGood       prometheus.Gauge
	configTime       prometheus.Gauge
}

func newMetrics() *metrics {
	const namespace = "latchkey_injector"
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		admissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "admissions_total",
			Help: "Admission requests by what became of them and why.",
		}, []string{"decision", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "admission_duration_seconds",
			Help:    "Time from reading an admission request to having its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, 1},
		}),
		certificate:      gauge("certificate_not_after_timestamp_seconds", "End of the serving certificate, in seconds since 1970."),
		configGeneration: gauge("config_generation", "How many configurations have been used since the start."),
		configGood:       gauge("config_last_reload_successful", "1 if the operator's file is in use as it is, 0 if an older one is."),
		configTime:       gauge("config_last_reload_timestamp_seconds", "When the operator's file was last taken over, in seconds since 1970."),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the label is the release.",
		ConstLabels: prometheus.Labels{"version": version.Version},
	})
	info.Set(1)
	m.registry.MustRegister(m.admissions, m.duration, m.certificate, m.configGeneration, m.configGood, m.configTime, info)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, ctrlmetrics.Registry}, promhttp.HandlerOpts{})
}

func (m *metrics) observe(d mutate.Decision, r mutate.Reason, took time.Duration) {
	m.admissions.WithLabelValues(string(d), string(r)).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *metrics) configReloaded(err error) {
	if err != nil {
		m.configGood.Set(0)
		return
	}
	m.configGood.Set(1)
	m.configTime.SetToCurrentTime()
}
