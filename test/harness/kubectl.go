package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// KubectlOutput runs kubectl in the test's namespace with stdin as its input,
// and returns what a user would see. The error is kubectl's own failure, of
// which stderr says why.
func (s *Space) KubectlOutput(stdin string, args ...string) (stdout, stderr string, err error) {
	s.Helper()
	s.steady.RLock()
	defer s.steady.RUnlock()
	home, err := os.MkdirTemp("", "latchkey-kubectl-")
	if err != nil {
		s.Fatal(err)
	}
	defer os.RemoveAll(home)
	cmd := exec.CommandContext(s.Context(), s.Tool("kubectl"), append([]string{"--kubeconfig", s.Kubeconfig, "--namespace", s.Name}, args...)...)
	// Neither the user's cache nor their kuberc may matter, or be changed.
	cmd.Env = append(os.Environ(), "HOME="+home, "KUBECACHEDIR="+home, "KUBERC=off")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("running kubectl %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), err
}
