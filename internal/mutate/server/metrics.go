package server

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/latchkey-dev/latchkey/internal/certs"
	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/prom"
)

// MetricDocs lists the injector's own metrics, sorted by name.
func MetricDocs() []prom.Doc { return newMetrics().Docs() }

// maxNamespaces bounds the values of the label namespace; what comes after is
// "other". Whoever reaches the port can send reviews of any namespace, so that a
// name is let go when a new one needs its place and it was not counted for
// namespaceKept.
const (
	maxNamespaces = 1000
	namespaceKept = time.Hour
)

const otherNamespace = "other"

// metrics are the injector's own, and the process's; those of the webhook server
// come from controller-runtime's registry.
type metrics struct {
	*prom.Set

	admissions       *prometheus.CounterVec
	duration         prometheus.Histogram
	handshakeErrors  *prometheus.CounterVec
	notBefore        *prometheus.GaugeVec
	notAfter         *prometheus.GaugeVec
	ca               *prometheus.GaugeVec
	bundle           *prometheus.GaugeVec
	bundleKept       *prometheus.GaugeVec
	configGeneration *prometheus.GaugeVec
	configGood       *prometheus.GaugeVec
	configTime       *prometheus.GaugeVec

	mu         sync.Mutex
	namespaces map[string]time.Time // when each was counted last
}

func newMetrics() *metrics {
	m := &metrics{Set: prom.New("latchkey_injector_"), namespaces: map[string]time.Time{}}
	m.admissions = m.Counter("admissions_total", "Admission requests by what became of them, why, and the pod's namespace (\"other\" beyond 1,000 in an hour, and for what is no namespace's name).",
		"decision", "reason", "namespace")
	m.duration = m.Histogram("admission_duration_seconds", "Time from reading an admission request to having its answer.",
		.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, 1)
	m.handshakeErrors = m.Counter("tls_handshake_errors_total", "TLS handshakes with the webhook that the client ended with an alert, as an API server does that does not trust the certificate.")
	m.handshakeErrors.WithLabelValues()
	m.notBefore = m.Gauge("certificate_not_before_timestamp_seconds", "Begin of the serving certificate, in seconds since 1970; absent before there is one.")
	m.notAfter = m.Gauge("certificate_not_after_timestamp_seconds", "End of the serving certificate, in seconds since 1970; absent before there is one.")
	m.ca = m.Gauge("ca_certificate_not_after_timestamp_seconds", "End of the self-managed CA that signs now, in seconds since 1970; absent in the other certificate modes.")
	m.bundle = m.Gauge("ca_bundle_matches", "1 if the webhook configuration trusts the self-managed CA that signs now, 0 if not; absent in the other certificate modes.")
	m.bundleKept = m.Gauge("ca_bundle_kept_timestamp_seconds", "When this replica last saw the webhook configuration as it has to be, with the right to keep it so, in seconds since 1970; the start before that; absent in the other certificate modes.")
	m.configGeneration = m.Gauge("config_generation", "How many configurations have been used since the start.")
	m.configGood = m.Gauge("config_last_reload_successful", "1 if the operator's file is in use as it is, 0 if an older one is.")
	m.configTime = m.Gauge("config_last_reload_timestamp_seconds", "When the operator's file was last taken over, in seconds since 1970.")
	return m
}

// handler serves the metrics, with what status says at that moment.
func (m *metrics) handler(status func() certs.Status) http.Handler {
	all := m.Handler(ctrlmetrics.Registry)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.certificates(status())
		all.ServeHTTP(w, r)
	})
}

func (m *metrics) certificates(s certs.Status) {
	if !s.NotAfter.IsZero() {
		m.notBefore.WithLabelValues().Set(float64(s.NotBefore.Unix()))
		m.notAfter.WithLabelValues().Set(float64(s.NotAfter.Unix()))
	}
	if s.CA != nil {
		m.ca.WithLabelValues().Set(float64(s.CA.NotAfter.Unix()))
		in := 0.0
		if s.CA.InBundle {
			in = 1
		}
		m.bundle.WithLabelValues().Set(in)
		m.bundleKept.WithLabelValues().Set(float64(s.CA.Kept.Unix()))
	}
}

func (m *metrics) observe(namespace string, d mutate.Decision, r mutate.Reason, took time.Duration) {
	m.admissions.WithLabelValues(string(d), string(r), m.namespace(namespace)).Inc()
	m.duration.Observe(took.Seconds())
}

// namespace is a value of the label: bounded in length, since it is a name that
// Kubernetes allows, and in number.
func (m *metrics) namespace(name string) string {
	if len(validation.IsDNS1123Label(name)) > 0 {
		return otherNamespace
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if _, known := m.namespaces[name]; !known && len(m.namespaces) >= maxNamespaces {
		for old, counted := range m.namespaces {
			if now.Sub(counted) > namespaceKept {
				delete(m.namespaces, old)
				m.admissions.DeletePartialMatch(prometheus.Labels{"namespace": old})
			}
		}
		if len(m.namespaces) >= maxNamespaces {
			return otherNamespace
		}
	}
	m.namespaces[name] = now
	return name
}

func (m *metrics) configUsed() { m.configGeneration.WithLabelValues().Inc() }

func (m *metrics) configReloaded(err error) {
	if err != nil {
		m.configGood.WithLabelValues().Set(0)
		return
	}
	m.configGood.WithLabelValues().Set(1)
	m.configTime.WithLabelValues().SetToCurrentTime()
}
