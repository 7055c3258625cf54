package vault

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// A rate limit slows a look at many roles down, and does not end it.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := start(t, nil)
		n := 0
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			if n++; n%3 > 0 {
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"errors":["request path \"sys/auth\": rate limit quota exceeded"]}`)
				return
			}
			_, _ = io.WriteString(w, `{"data":{"token/":{}}}`)
		}
		began := time.Now()
		for range 5 {
			read(t, c)
		}
		if d := time.Since(began); n != 15 || d < 7*time.Second || d > 25*time.Second {
			t.Errorf("5 reads took %d calls and %s", n, d)
		}
		// One that lasts is an error, which says so.
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"errors":["request path \"sys/auth\": rate limit quota exceeded"]}`)
		}
		_, err := c.read(t.Context(), "sys/auth")
		f.wantError(err, "reading sys/auth: ", "rate limit quota exceeded (429)")
		if !unavailable(err) {
			t.Errorf("a limit is about one call: %v", err)
		}
	})
}

func unavailable(err error) bool {
	var from interface{ Unavailable() bool }
	return errors.As(err, &from) && from.Unavailable()
}

// What is about one call is told from what all calls would end with.
func TestUnavailable(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*config.Vault)
		fake   func(*fake)
		want   bool
	}{
		{"a login that fails", nil, func(f *fake) { f.down = true }, true},
		{"a refused login", func(v *config.Vault) { v.Auth.Role = "wrong" }, nil, true},
		{"no file to log in with", func(v *config.Vault) { v.Auth.TokenPath = "/nowhere" }, nil, true},
		{"a denied call", nil, func(f *fake) { f.deny = func(string) bool { return true } }, false},
		{"a sealed Vault", nil, func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }
		}, true},
		{"what Vault does not take", nil, func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(400)
				_, _ = io.WriteString(w, `{"errors":["no"]}`)
			}
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, c := start(t, test.change)
			if test.fake != nil {
				test.fake(f)
			}
			err := c.WriteRole(t.Context(), "r", nil, nil)
			f.wantError(err)
			if got := unavailable(err); got != test.want {
				t.Errorf("%v: %v", err, got)
			}
		})
	}
}
