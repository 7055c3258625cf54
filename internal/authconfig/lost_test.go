package authconfig

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// oneLease is an API server that has one Lease at most.
type oneLease struct {
	lease string
	// cut says how the server is out of reach; nil is not at all.
	cut atomic.Pointer[func(*http.Request) error]
}

func (s *oneLease) RoundTrip(r *http.Request) (*http.Response, error) {
	if cut := s.cut.Load(); cut != nil {
		return nil, (*cut)(r)
	}
	status := http.StatusOK
	switch {
	case r.Method != http.MethodGet:
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.lease = string(sent)
	case s.lease == "":
		status = http.StatusNotFound
	}
	body := s.lease
	if status == http.StatusNotFound {
		body = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (s *oneLease) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	kube, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "https://api.test", ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, &http.Client{Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// A process that has lost the Lease is over before another can have it, whatever
// it is in the middle of: what it still did in Vault, the other would not know.
func TestLostLease(t *testing.T) {
	for name, cut := range map[string]func(*http.Request) error{
		"refused": func(*http.Request) error { return errors.New("connection refused") },
		"silent": func(r *http.Request) error {
			<-r.Context().Done()
			return r.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var server oneLease
				kube := server.client(t)
				begun, goOn := make(chan struct{}), make(chan struct{})
				over := make(chan error, 1)
				go func() {
					over <- lead(t.Context(), kube, "latchkey", slog.New(slog.DiscardHandler), func(context.Context) {
						close(begun)
						<-goOn // a step that Vault does not answer
					})
				}()
				<-begun
				server.cut.Store(&cut)
				lost := time.Now()
				if err := <-over; !errors.Is(err, errLost) {
					t.Errorf("ended with %v", err)
				}
				if after := time.Since(lost); after >= leaseDuration {
					t.Errorf("ended %s after it renewed the Lease last, which another may have had by then", after)
				}
				server.cut.Store(nil)
				if free(t.Context(), kube, "latchkey") == nil {
					t.Error("the Lease was given away with a step under way")
				}
				close(goOn)
			})
		})
	}
}
