package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

const loginCall = "update auth/kubernetes/login"

// long is an interval within which nothing is due.
const long = config.Duration(time.Hour)

// atLeast is nil when Vault has been asked for a call n times or more.
func atLeast(v *vaulttest.Vault, n int, call string) error {
	if got := v.Count(call); got < n {
		return fmt.Errorf("%q was called %d times, want %d; all calls: %q", call, got, n, v.Calls())
	}
	return nil
}

// wantCount checks how often Vault has been asked for a call.
func wantCount(t *testing.T, v *vaulttest.Vault, n int, call string) {
	t.Helper()
	if got := v.Count(call); got != n {
		t.Errorf("%q was called %d times, want %d; all calls: %q", call, got, n, v.Calls())
	}
}

// is is nil while a file has this content.
func is(a *vaulttest.Agent, name, want string) func() error {
	return func() error {
		if got, err := a.File(name); err != nil || got != want {
			return fmt.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
		return nil
	}
}

func raw(path, secret, key string) config.File {
	return config.File{Path: path, Secret: secret, Format: config.FormatRaw, Key: key}
}
