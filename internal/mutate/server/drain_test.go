package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The API server keeps its connections, and what it sends on one that the
// injector closes is lost: a replica that ends asks it to use another.
func TestConnectionsEndWhileDraining(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	trust := r.certify(time.Now().Add(time.Hour))
	r.await("starting webhook")
	r.await("")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, NextProtos: []string{"http/1.1"}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	closes := func() bool {
		t.Helper()
		resp, err := client.Post("https://"+r.address+"/mutate", "application/json", strings.NewReader(review))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"allowed":true`) {
			t.Fatalf("answered %s: %.200s (%v)", resp.Status, body, err)
		}
		return resp.Close
	}
	if closes() {
		t.Error("the connection ends though the server does not: the API server would make a new one for every pod")
	}
	r.stop()
	r.await("shutting down")
	if !closes() {
		t.Error("the connection stays while the server drains")
	}
	if err := r.end(); err != nil {
		t.Errorf("the server ended with: %v", err)
	}
}

// A server that has to end for a fault of its own serves on as long as one that
// was told to.
func TestFailureDrains(t *testing.T) {
	r := start(t)
	r.await("waiting for certificate")
	r.certify(time.Now().Add(time.Hour))
	r.await("starting webhook")
	r.await("")
	fault := errors.New("the authority has ended")
	r.failed <- fault
	r.await("shutting down")
	if code, _ := r.ops("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz while draining: %d", code)
	}
	if err := r.end(); !errors.Is(err, fault) {
		t.Errorf("ended with %v, want %v", err, fault)
	}
	if !strings.Contains(r.log.String(), "draining") {
		t.Errorf("log\n%s", r.log)
	}
}

// Draining ends by itself.
func TestDrainEnds(t *testing.T) {
	r := start(t, func(o *Options, _ string) { o.Drain = time.Millisecond })
	r.await("waiting for certificate")
	r.certify(time.Now().Add(time.Hour))
	r.await("starting webhook")
	r.await("")
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("the server ended with: %v", err)
	}
}
