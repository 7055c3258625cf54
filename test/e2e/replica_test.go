package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// replica runs an injector beside the installed ones until the test ends, with
// settings of its own beside the connection, and returns a handler that leads
// to it. Nobody but the test calls it.
func replica(t *testing.T, settings map[string]any) http.Handler {
	t.Helper()
	config := map[string]any{"connections": map[string]any{
		"default": map[string]any{"address": suite.VaultAddr, "ca": string(suite.VaultCA)},
	}}
	for key, value := range settings {
		config[key] = value
	}
	text, err := json.Marshal(config) // is YAML too
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := suite.IssueServing(cluster.NodeIP)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"config.yaml": text, "tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address, ops := freeAddress(t), freeAddress(t)
	startProgram(t, filepath.Join(harness.Checkout(), "dist", runtime.GOARCH, "injector"), "serve", "--config", filepath.Join(dir, "config.yaml"),
		"--cert-dir", dir, "--listen", address, "--ops-listen", ops, "--drain", "0s")
	waitReady(t, "http://"+ops+"/readyz")

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(suite.CA())
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: address})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return proxy
}

// startProgram starts a program that ends with the test, and with the suite however that
// ends. What it prints is shown when the test fails.
func startProgram(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The signal comes at the death of the thread, not of the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s %s printed:\n%s", name, strings.Join(args, " "), out.String())
		}
	})
}

// freeAddress is an address of the node's on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", cluster.NodeIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waitReady asks until a URL answers well.
func waitReady(t *testing.T, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		body, code, err := get(ctx, url)
		if err == nil && code == http.StatusOK {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: HTTP %d %s (%v)", url, code, body, err)
		}
	}
}
