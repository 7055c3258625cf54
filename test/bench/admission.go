package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey/test/harness"
)

const (
	// decodeOnly is the argument by which this program is the server that the
	// injector is compared with.
	decodeOnly = "decode-only"

	rounds     = 7               // of each server in turn
	roundTime  = 2 * time.Second // of one server
	workers    = 8               // requests under way
	steadyRate = 500             // requests a second
	steadyTime = 10 * time.Second
)

// admission compares the injector with a server that only decodes the same
// review and answers: same TLS, same connections, same run, both on loopback.
func admission(ctx context.Context) error {
	review, err := os.ReadFile(filepath.Join(harness.Checkout(), "internal/mutate/testdata/recorded-first/review.json"))
	if err != nil {
		return fmt.Errorf("reading a recorded review: %w", err)
	}
	dir, err := os.MkdirTemp("", "latchkey-bench")
	if err != nil {
		return fmt.Errorf("making a directory for the certificate: %w", err)
	}
	defer os.RemoveAll(dir)
	roots, err := writeCertificate(dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	injector := filepath.Join(harness.Checkout(), "dist", runtime.GOARCH, "injector")
	size, err := os.Stat(injector)
	if err != nil {
		return fmt.Errorf("measuring the injector's binary: %w", err)
	}
	figure("injector binary, stripped", fmt.Sprintf("%.1f MB", float64(size.Size())/1e6))

	ours, err := startServer(ctx, roots, review, func(listen string) *exec.Cmd {
		return exec.CommandContext(ctx, injector, "serve", "--cert-dir", dir, "--listen", listen, "--ops-listen", "127.0.0.1:0", "--log-level", "error")
	})
	if err != nil {
		return err
	}
	defer ours.stop()
	bare, err := startServer(ctx, roots, review, func(listen string) *exec.Cmd {
		return exec.CommandContext(ctx, self, decodeOnly, dir, listen)
	})
	if err != nil {
		return err
	}
	defer bare.stop()

	for i := range rounds {
		fmt.Fprintf(os.Stderr, "asking for admissions, round %d of %d\n", i+1, rounds)
		for _, s := range []*admissionServer{ours, bare} {
			if err := s.saturate(ctx, roundTime); err != nil {
				return err
			}
		}
	}
	figure(fmt.Sprintf("injector's admissions a second, median of %d", rounds), fmt.Sprintf("%.0f", median(ours.rates)))
	figure("… of a server that only decodes the review", fmt.Sprintf("%.0f", median(bare.rates)))
	figure("… ours to theirs", fmt.Sprintf("%.0f %%", 100*median(ours.rates)/median(bare.rates)))
	figure("CPU time of an admission, ours and theirs", fmt.Sprintf("%s, %s", median(ours.cpu), median(bare.cpu)))

	fmt.Fprintf(os.Stderr, "asking for %d admissions a second\n", steadyRate)
	times, err := ours.steady(ctx, steadyRate, steadyTime)
	if err != nil {
		return err
	}
	slices.Sort(times)
	figure(fmt.Sprintf("injector at %d admissions a second, median and p99", steadyRate),
		fmt.Sprintf("%.2f ms, %.2f ms", 1e3*times[len(times)/2].Seconds(), 1e3*times[len(times)*99/100].Seconds()))
	u, err := usageOf(ours.cmd.Process.Pid)
	if err != nil {
		return err
	}
	figure("… its VmRSS then", fmt.Sprintf("%.1f MiB", u.rss))
	return nil
}

// admissionServer is one of the two that are compared, a process of its own.
type admissionServer struct {
	cmd    *exec.Cmd
	client *http.Client
	url    string
	review []byte

	rates []float64       // admissions a second, by round
	cpu   []time.Duration // CPU time of one admission, by round
}

func startServer(ctx context.Context, roots *x509.CertPool, review []byte, command func(listen string) *exec.Cmd) (*admissionServer, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a port: %w", err)
	}
	listen := free.Addr().String()
	_ = free.Close()
	s := &admissionServer{
		cmd: command(listen),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			ForceAttemptHTTP2: true, // as the API server does
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12},
		}},
		url:    "https://" + listen + "/mutate",
		review: review,
	}
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.cmd.Path, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; {
		err := s.ask(ctx)
		if err == nil {
			return s, nil
		}
		if time.Now().After(end) {
			s.stop()
			return nil, fmt.Errorf("waiting for %s: %w", s.cmd.Path, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		}
	}
}

func (s *admissionServer) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// ask sends the review and reads the answer.
func (s *admissionServer) ask(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(s.review))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if !bytes.Contains(answer, []byte(`"allowed":true`)) {
		return fmt.Errorf("the answer does not allow the pod: %.200s", answer)
	}
	return nil
}

// saturate asks as fast as the server answers.
func (s *admissionServer) saturate(ctx context.Context, d time.Duration) error {
	before, err := cpuTime(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	var count atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for time.Since(began) < d && failed.Load() == nil {
				if err := s.ask(ctx); err != nil {
					failed.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		return fmt.Errorf("asking %s: %w", s.cmd.Path, *err)
	}
	after, err := cpuTime(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.rates = append(s.rates, float64(count.Load())/took.Seconds())
	s.cpu = append(s.cpu, (after-before)/time.Duration(count.Load()))
	return nil
}

// steady asks at a fixed rate, whatever the answers take, and returns what
// each took from the instant at which it was due.
func (s *admissionServer) steady(ctx context.Context, rate int, d time.Duration) ([]time.Duration, error) {
	n := rate * int(d/time.Second)
	times, errs := make([]time.Duration, n), make([]error, n)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		wg.Go(func() {
			errs[i] = s.ask(ctx)
			times[i] = time.Since(due)
		})
	}
	wg.Wait()
	return times, errors.Join(errs...)
}

// writeCertificate writes tls.crt and tls.key for 127.0.0.1 and example.com,
// and returns what trusts them.
func writeCertificate(dir string) (*x509.CertPool, error) {
	s := httptest.NewTLSServer(nil)
	s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate's key: %w", err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		"tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, fmt.Errorf("writing the certificate: %w", err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return roots, nil
}

// serveDecodeOnly is the least that an admission webhook can do.
func serveDecodeOnly(certDir, listen string) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var review map[string]any
		if err := json.Unmarshal(body, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		request, _ := review["request"].(map[string]any)
		answer, err := json.Marshal(map[string]any{
			"apiVersion": review["apiVersion"], "kind": review["kind"],
			"response": map[string]any{"uid": request["uid"], "allowed": true},
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	return (&http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}).
		ListenAndServeTLS(filepath.Join(certDir, "tls.crt"), filepath.Join(certDir, "tls.key"))
}
