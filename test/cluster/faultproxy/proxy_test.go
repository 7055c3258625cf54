package faultproxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"syscall"
	"testing"
	"time"
)

// start puts a proxy with TLS before a target that answers "vault", and returns a client that trusts it.
func start(t *testing.T) (p *Proxy, base string, client *http.Client) {
	t.Helper()
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "vault") }))
	t.Cleanup(target.Close)
	to, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	p = New("127.0.0.1:0", &target.TLS.Certificates[0], to, target.Client().Transport)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	roots := target.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return p, "https://" + p.Address(), &http.Client{Transport: transport}
}

func set(t *testing.T, p *Proxy, m Mode) {
	t.Helper()
	if err := p.Set(m); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, client *http.Client, address string) (status int, body, retryAfter string) {
	t.Helper()
	answer, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(data), answer.Header.Get("Retry-After")
}

func TestPass(t *testing.T) {
	_, base, client := start(t)
	if status, body, _ := get(t, client, base+"/v1/sys/health"); status != 200 || body != "vault" {
		t.Errorf("got %d %q, want 200 vault", status, body)
	}
}

func TestStatusOnlyForItsPathAndCount(t *testing.T) {
	p, base, client := start(t)
	set(t, p, Mode{Fault: "status", Status: 429, RetryAfter: 7, Path: "/v1/kv/a", Count: 2})
	for _, want := range []struct {
		path       string
		status     int
		retryAfter string
	}{{"/v1/kv/b", 200, ""}, {"/v1/kv/a", 429, "7"}, {"/v1/kv/a", 429, "7"}, {"/v1/kv/a", 200, ""}} {
		status, body, retryAfter := get(t, client, base+want.path)
		if status != want.status || retryAfter != want.retryAfter {
			t.Errorf("%s: got %d, Retry-After %q, body %q; want %d, %q", want.path, status, retryAfter, body, want.status, want.retryAfter)
		}
	}
	if requests, faulty := p.Counts(); requests != 4 || faulty != 2 {
		t.Errorf("counted %d requests and %d faults, want 4 and 2", requests, faulty)
	}
}

func TestCut(t *testing.T) {
	p, base, client := start(t)
	set(t, p, Mode{Fault: "cut"})
	if answer, err := client.Get(base); err == nil {
		answer.Body.Close()
		t.Errorf("got %s, want an error", answer.Status)
	}
	set(t, p, Mode{})
	if status, _, _ := get(t, client, base); status != 200 {
		t.Errorf("after the cut: got %d, want 200", status)
	}
}

func TestRefuseAndComeBackAtTheSameAddress(t *testing.T) {
	p, base, client := start(t)
	get(t, client, base) // leaves an open connection
	set(t, p, Mode{Fault: "refuse"})
	if _, err := client.Get(base); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want connection refused", err)
	}
	set(t, p, Mode{})
	if status, _, _ := get(t, client, base); status != 200 {
		t.Errorf("after the refusal: got %d, want 200", status)
	}
}

func TestSlowUntilTheModeChanges(t *testing.T) {
	p, base, client := start(t)
	arrived, done := make(chan struct{}), make(chan int, 1)
	p.held = func() { close(arrived) }
	set(t, p, Mode{Fault: "slow", Delay: time.Hour})
	go func() {
		answer, err := client.Get(base)
		if err != nil {
			done <- 0
			return
		}
		answer.Body.Close()
		done <- answer.StatusCode
	}()
	<-arrived
	select {
	case status := <-done:
		t.Fatalf("answered %d at once, want it held", status)
	default:
	}
	set(t, p, Mode{})
	if status := <-done; status != 200 {
		t.Errorf("got %d when let go, want 200", status)
	}
}

func TestSlowDelays(t *testing.T) {
	p, base, client := start(t)
	set(t, p, Mode{Fault: "slow", Delay: 50 * time.Millisecond})
	began := time.Now()
	get(t, client, base)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("answered after %s, want 50ms or more", took)
	}
}

func TestModesThatMakeNoSense(t *testing.T) {
	p, _, _ := start(t)
	for want, mode := range map[string]Mode{
		`unknown fault "lazy" (want slow, cut, refuse, status, or none)`: {Fault: "lazy"},
		"fault slow with a delay of 0s (want more than 0)":               {Fault: "slow"},
		"fault status with status 20 (want 300 to 599)":                  {Fault: "status", Status: 20},
		"fault refuse with a path or a count (it knows no requests)":     {Fault: "refuse", Count: 1},
	} {
		if err := p.Set(mode); err == nil || err.Error() != want {
			t.Errorf("%+v: got %v, want %s", mode, err, want)
		}
	}
}
