package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// What lies between agent and Vault may answer anything, a copy of the request
// too. Logs and status stay short, printable, and free of credentials.
func TestHostileAnswers(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) bool {
		credential := r.Header.Get("X-Vault-Token")
		if credential == "" {
			credential = fixtureJWT()
		}
		return says(403, nil, fmt.Sprintf(`{"errors":["denied: %s %s"]}`, strings.Repeat("x", 900), credential))(w, r)
	}
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"echo":               echo,
		"control characters": says(400, nil, `{"errors":["a\u001b[31mred\u001b[0m\u0000\u0007\u202e\r\nlevel=error"]}`),
		"long":               says(500, nil, `{"errors":["`+strings.Repeat("long ", 1<<20)+`"]}`),
		"many":               says(500, nil, `{"errors":["`+strings.Repeat(`e","`, 1<<16)+`"]}`),
		"deep":               says(200, nil, strings.Repeat(`{"auth":`, 1<<14)),
		"endless":            says(200, nil, `{"auth":"`+strings.Repeat("x", maxAnswer)+`"}`),
	} {
		for _, from := range []string{"/v1/auth/kubernetes/login", "/v1/kv/data/app", "/v1/sys/internal/ui/mounts/kv/app"} {
			t.Run(name+" from "+from, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPod(t, env("db.env", "kv/app"))
					p.vault.fault = func(w http.ResponseWriter, r *http.Request) bool { return r.URL.Path == from && fault(w, r) }
					c := p.start()
					after(time.Second)
					ok, reason := p.ready()
					if ok || len(reason) > 2<<10 || reason == "the agent is starting" {
						t.Errorf("ready %v, %d bytes: %.200q", ok, len(reason), reason)
					}
					if i := strings.IndexFunc(reason, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
						t.Errorf("not printable: %q", reason)
					}
					for line := range strings.Lines(p.logs.String()) {
						if len(line) > 3<<10 {
							t.Errorf("a line of %d bytes: %.200q", len(line), line)
						}
					}
					c.terminate()
				})
			})
		}
	}
}

// An answer that came is about its path alone; without one, every other call
// would fail as well.
func TestEverywhere(t *testing.T) {
	refused := &url.Error{Op: "Get", URL: "https://vault.test", Err: &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}}
	for _, c := range []struct {
		err  error
		e    exchange
		want bool
	}{
		{refused, exchange{}, true},
		{context.DeadlineExceeded, exchange{}, true},
		{&url.Error{Op: "Get", URL: "https://vault.test", Err: errTooLong}, exchange{}, false},
		{errors.New("invalid character '<'"), exchange{status: 200}, false},
		{errors.New("invalid character '<'"), exchange{status: 404}, false},
	} {
		p := classify("reading", c.err, &c.e)
		if p.Everywhere != c.want || strings.Contains(p.Text, "vault.test") {
			t.Errorf("%v: everywhere %v, %q", c.err, p.Everywhere, p.Text)
		}
	}
}

// The same failure has the same text at each try, so that it is logged once.
func TestCauseIsTheSameEachTime(t *testing.T) {
	texts := make(map[string]bool)
	for port := range 2 {
		from := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 40000 + port}
		to := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 8200}
		reset := &net.OpError{Op: "read", Net: "tcp", Source: from, Addr: to, Err: errors.New("connection reset by peer")}
		texts[cause(&url.Error{Op: "Put", URL: "https://vault.test", Err: reset})] = true
		dns := &net.DNSError{Err: fmt.Sprintf("read udp 10.0.0.1:%d->10.0.0.53:53: i/o timeout", 40000+port), Name: "vault.test", Server: "10.0.0.53:53", IsTimeout: true}
		texts[cause(&url.Error{Op: "Put", URL: "https://vault.test", Err: &net.OpError{Op: "dial", Net: "tcp", Err: dns}})] = true
	}
	if len(texts) != 2 || !texts["read tcp 10.0.0.2:8200: connection reset by peer"] {
		t.Errorf("got %v", texts)
	}
}

func TestQuote(t *testing.T) {
	e := &exchange{hide: []sealed.Value[string]{sealed.Of("s3cret")}}
	if got := e.quote(strings.Repeat("x", maxQuote-3) + "s3cret"); strings.Contains(got, "s3") || len(got) > maxQuote {
		t.Errorf("%d bytes that end in %q", len(got), got[len(got)-10:])
	}
	if got := e.quote("\x1b[1ma\tb\u2028c\xff"); got != "[1ma b c \ufffd" && got != "[1ma b c\ufffd" {
		t.Errorf("got %q", got)
	}
}
