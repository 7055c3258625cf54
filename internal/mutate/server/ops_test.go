package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/certs"
	"github.com/latchkey-dev/latchkey/internal/prom"
)

// ask asks the ops address over TLS, with a client certificate or none.
func (r *running) ask(path string, server tls.Certificate, client ...tls.Certificate) (int, string, error) {
	r.t.Helper()
	c := &tls.Config{RootCAs: trusting(server), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(client) == 0 {
			return new(tls.Certificate), nil
		}
		return &client[0], nil
	}}
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get("https://" + r.opsAddr.String() + path)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestOpsOverTLS(t *testing.T) {
	var server, client, stranger tls.Certificate
	opsDir, clientCA := "", ""
	r := start(t, func(o *Options, dir string) {
		opsDir, clientCA = filepath.Join(dir, "ops"), filepath.Join(dir, "clients.crt")
		for _, name := range []string{"ops", "client", "stranger"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		end := time.Now().Add(time.Hour)
		server, client, stranger = certify(t, opsDir, end), certify(t, filepath.Join(dir, "client"), end), certify(t, filepath.Join(dir, "stranger"), end)
		write(t, clientCA, pemOf(client))
		o.OpsCertDir, o.OpsClientCA = opsDir, clientCA
	})
	r.await("waiting for certificate")
	// A kubelet has no certificate.
	if code, body, err := r.ask("/livez", server); code != 200 {
		t.Errorf("/livez: %d %s%v", code, body, err)
	}
	if code, body, err := r.ask("/metrics", server); code != 403 || !strings.Contains(body, "--ops-client-ca") {
		t.Errorf("/metrics without a certificate: %d %s%v", code, body, err)
	}
	if code, body, err := r.ask("/metrics", server, client); code != 200 || !strings.Contains(body, "latchkey_injector_build_info") {
		t.Errorf("/metrics with a certificate: %d %s%v", code, body, err)
	}
	if code, _, err := r.ask("/metrics", server, stranger); err == nil {
		t.Errorf("/metrics with another's certificate: %d", code)
	}
	if _, err := http.Get("http://" + r.opsAddr.String() + "/nope"); err != nil {
		t.Errorf("plain HTTP gets no answer: %v", err) // net/http says what is wrong
	}

	// A new certificate is taken over; the other is not known any more.
	renewed := certify(t, opsDir, time.Now().Add(2*time.Hour))
	deadline := time.After(time.Minute)
	for {
		if code, _, _ := r.ask("/livez", renewed); code == 200 {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the new certificate is not served")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// The CA of clients is read again while it is used; a broken file is said once,
// and changes nothing.
func TestClientCAChanges(t *testing.T) {
	dir := t.TempDir()
	one, other := certify(t, dir, time.Now().Add(time.Hour)), certify(t, dir, time.Now().Add(2*time.Hour))
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		ca := &caFile{path: filepath.Join(dir, "clients.crt")}
		write(t, ca.path, pemOf(one))
		if err := ca.read(); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go reread(ctx, time.Second, slog.New(slog.NewTextHandler(&log, nil)), "CA of clients", ca.read)
		for _, c := range []struct {
			data []byte
			want tls.Certificate
		}{{pemOf(one), one}, {pemOf(other), other}, {[]byte("no PEM"), other}, {pemOf(one), one}} {
			write(t, ca.path, c.data)
			time.Sleep(4700 * time.Millisecond) // and not at the moment of a read
			if !ca.pool.Load().Equal(trusting(c.want)) {
				t.Errorf("with %.30q another CA is in use", c.data)
			}
		}
		if n := strings.Count(log.String(), "it holds no certificate in PEM"); n != 1 {
			t.Errorf("a broken file was reported %d times:\n%s", n, &log)
		}
	})
}

func pemOf(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

// Pods are admitted while the configuration changes, breaks and is mended, each
// by a whole configuration; and a fault is an answer that counts.
func TestServeUnderLoadWhileConfigurationChanges(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	trust := r.certify(time.Now().Add(time.Hour))
	r.await("starting webhook")
	r.await("")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	post := func() string {
		resp, err := client.Post("https://"+r.address+"/mutate", "application/json; charset=utf-8", strings.NewReader(review))
		if err != nil {
			t.Error(err)
			return ""
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return string(body)
	}
	done := make(chan struct{})
	var load sync.WaitGroup
	answers := make([]int, 8)
	for i := range answers {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if body := post(); !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `"patch":"`) {
					t.Errorf("answered with %s", body)
					return
				}
				answers[i]++
			}
		})
	}
	for i := range 100 {
		if i%3 == 2 {
			r.write("config.yaml", []byte("connections: ["))
		} else {
			r.configure(fmt.Sprint("vault-", i))
		}
		r.config.reload()
	}
	close(done)
	load.Wait()
	for i, n := range answers {
		if n == 0 {
			t.Errorf("client %d got no answer", i)
		}
	}

	r.config.current.Store(nil)
	if body := post(); !strings.Contains(body, `"allowed":false`) || !strings.Contains(body, `"code":500`) {
		t.Errorf("a fault is answered with %s", body)
	}
	if _, text := r.ops("/metrics"); !strings.Contains(text, `latchkey_injector_admissions_total{decision="denied",namespace="shop",reason="internal-error"} 1`+"\n") {
		t.Error("the fault is not counted")
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// Whoever reaches the port can send any namespace: names and their number are
// bounded, and a flood of them does not take the places for good.
func TestMetricsBoundNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		expect := func(series int, want map[string]float64) {
			t.Helper()
			counts := admissions(t, m)
			for name, n := range want {
				if counts[name] != n {
					t.Errorf("%s: %v, want %v", name, counts[name], n)
				}
			}
			if len(counts) != series {
				t.Errorf("%d series, want %d", len(counts), series)
			}
		}
		for i := range 5000 {
			m.observe(fmt.Sprint("ns-", i), "denied", "invalid-request", 0)
		}
		for _, name := range []string{"", strings.Repeat("x", 64), "No Name", "a\x00b"} {
			m.observe(name, "denied", "invalid-request", 0)
		}
		m.observe("ns-999", "injected", "asked-for", 0)
		m.observe("ns-1000", "injected", "asked-for", 0)
		expect(1003, map[string]float64{
			"denied ns-0 invalid-request":  1,
			"denied other invalid-request": 4004,
			"injected ns-999 asked-for":    1,
			"injected other asked-for":     1,
		})
		time.Sleep(50 * time.Minute)
		m.observe("ns-0", "denied", "invalid-request", 0)
		time.Sleep(11 * time.Minute)
		m.observe("shop", "injected", "asked-for", 0)
		expect(4, map[string]float64{
			"denied ns-0 invalid-request": 2,
			"injected shop asked-for":     1,
			"injected other asked-for":    1,
		})
	})
}

// admissions are the counts of each series of admissions_total.
func admissions(t *testing.T, m *metrics) map[string]float64 {
	t.Helper()
	families, err := m.Own.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "latchkey_injector_admissions_total" {
			continue
		}
		for _, s := range f.GetMetric() {
			var labels []string
			for _, l := range s.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			counts[strings.Join(labels, " ")] = s.GetCounter().GetValue()
		}
	}
	return counts
}

// An API server that does not trust the certificate shows in the metrics, and a
// probe that only opens the port does not.
func TestRefusedHandshakesAreCounted(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	r.certify(time.Now().Add(time.Hour))
	r.await("starting webhook")
	r.await("")
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if _, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: x509.NewCertPool(), MaxVersion: version}); err == nil {
			t.Error("trusted without a CA")
		}
	}
	for deadline := time.After(time.Minute); ; {
		_, text := r.ops("/metrics")
		if strings.Contains(text, "latchkey_injector_tls_handshake_errors_total 2\n") && strings.Contains(r.log.String(), "TLS handshake error from ") {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("metrics\n%s\nlog\n%s", text, r.log)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// What is exposed is described, and of certificates only what is known.
func TestMetricDocs(t *testing.T) {
	docs := map[string]prom.Doc{}
	for _, d := range MetricDocs() {
		if d.Help == "" || d.Type == "" || docs[d.Name].Name != "" {
			t.Errorf("described as %+v", d)
		}
		docs[d.Name] = d
	}
	if d := docs["latchkey_injector_admissions_total"]; d.Type != "counter" || strings.Join(d.Labels, " ") != "decision reason namespace" {
		t.Errorf("described as %+v", d)
	}
	m := newMetrics()
	exposed := func() map[string]string {
		all := map[string]string{}
		families, err := m.Own.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			all[f.GetName()] = strings.TrimSpace(f.GetMetric()[0].String())
			if d := docs[f.GetName()]; !strings.EqualFold(f.GetType().String(), d.Type) || f.GetHelp() != d.Help {
				t.Errorf("%s is described as %+v", f.GetName(), d)
			}
		}
		return all
	}
	m.certificates(certs.Status{})
	for name := range exposed() {
		if strings.Contains(name, "certificate") || strings.Contains(name, "bundle") {
			t.Errorf("%s without a certificate", name)
		}
	}
	m.certificates(certs.Status{NotBefore: time.Unix(500, 0), NotAfter: time.Unix(1000, 0),
		CA: &certs.CA{NotAfter: time.Unix(2000, 0), InBundle: true, Kept: time.Unix(700, 0)}})
	m.observe("shop", "injected", "asked-for", 0)
	m.configUsed()
	m.configReloaded(nil)
	got := exposed()
	for name, want := range map[string]string{
		"latchkey_injector_certificate_not_before_timestamp_seconds":   "gauge:{value:500}",
		"latchkey_injector_certificate_not_after_timestamp_seconds":    "gauge:{value:1000}",
		"latchkey_injector_ca_certificate_not_after_timestamp_seconds": "gauge:{value:2000}",
		"latchkey_injector_ca_bundle_matches":                          "gauge:{value:1}",
		"latchkey_injector_ca_bundle_kept_timestamp_seconds":           "gauge:{value:700}",
	} {
		if strings.ReplaceAll(got[name], " ", "") != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	if len(got) != len(docs) {
		t.Errorf("%d metrics exposed, %d described", len(got), len(docs))
	}
}
