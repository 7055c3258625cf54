package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	vault "github.com/hashicorp/vault/api"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// tokenOf asks for a token with one policy and no other.
func tokenOf(policy string) *vault.TokenCreateRequest {
	return &vault.TokenCreateRequest{Policies: []string{policy}, NoDefaultPolicy: true, TTL: "1h"}
}

// authconfig runs the program on the tests' machine, and returns what it printed
// and its exit code.
func authconfig(t *testing.T, env []string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(harness.Checkout(), "dist", runtime.GOARCH, "authconfig"), args...)
	cmd.Env = append(os.Environ(), env...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// twins are tokens that live as long as those that authconfig gave Vault, which
// nobody can read: they are of the same ServiceAccount, and bound to the same
// Secrets.
type twins struct {
	a *harness.Authconfig
	// tokens by the UID of the Secret that they are bound to, oldest first.
	uids   []string
	tokens map[string]string
}

func newTwins(a *harness.Authconfig) *twins { return &twins{a: a, tokens: map[string]string{}} }

// look makes a twin of the token that Vault has now, unless there is one, and
// returns the name of its Secret.
func (w *twins) look() string {
	w.a.Helper()
	name := ""
	w.a.Eventually("a reviewer's token", func() error {
		r := w.a.Record().Reviewer
		if name = r.Secret; r.SecretUID == "" {
			return fmt.Errorf("the record knows of none: %+v", r)
		}
		if w.tokens[r.SecretUID] != "" {
			return nil
		}
		token, err := w.a.TryToken(harness.ReviewerName, "", &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Secret", Name: r.Secret, UID: types.UID(r.SecretUID),
		})
		if err != nil {
			return err // its Secret has just gone
		}
		w.tokens[r.SecretUID], w.uids = token, append(w.uids, r.SecretUID)
		return nil
	})
	return name
}

// seen is how many different Secrets there were.
func (w *twins) seen() int { return len(w.uids) }

// alive is how many of the twins the API server still takes.
func (w *twins) alive() (n int) {
	w.a.Helper()
	for _, token := range w.tokens {
		if w.a.Authenticates(token) {
			n++
		}
	}
	return n
}

// waitDead waits until of all tokens no more than two are good: the last one, and
// the one before, which has a grace. An API server takes a token that it has seen
// for some seconds after its Secret is gone.
func (w *twins) waitDead() {
	w.a.Helper()
	w.a.Eventually("the tokens before the last two to die", func() error {
		if alive := w.alive(); alive > 2 {
			return fmt.Errorf("of %d tokens %d are good", w.seen(), alive)
		}
		return nil
	})
}
