package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// kubectl returns a kubectl command with the administrator's rights, to be run from outside the box.
func (b Box) kubectl(ctx context.Context, args ...string) (*exec.Cmd, error) {
	r, err := b.running()
	if err != nil {
		return nil, err
	}
	args = append([]string{"-t", fmt.Sprint(r.Init.PID), "-n", "--", b.bin("kubectl"), "--kubeconfig", b.Kubeconfig()}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+b.kubeCache()) // else it would be below the user's ~/.kube
	return cmd, nil
}

// quietKubectl runs kubectl and returns what it complained of as the error.
func (b Box) quietKubectl(ctx context.Context, args ...string) error {
	return b.feedKubectl(ctx, nil, args...)
}

func (b Box) feedKubectl(ctx context.Context, stdin io.Reader, args ...string) error {
	cmd, err := b.kubectl(ctx, args...)
	if err != nil {
		return err
	}
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// applyFile applies one of the manifests.
func (b Box) applyFile(ctx context.Context, name string) error {
	data, err := manifests.ReadFile("manifests/" + name)
	if err != nil {
		return err
	}
	return b.feedKubectl(ctx, bytes.NewReader(data), "apply", "-f", "-")
}

// applySecret makes or replaces a Secret.
func (b Box) applySecret(ctx context.Context, namespace, name string, data map[string][]byte) error {
	object, err := json.Marshal(map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata":   map[string]any{"namespace": namespace, "name": name},
		"data":       data, // []byte is base64 in JSON, as a Secret wants it
	})
	if err != nil {
		return err
	}
	return b.feedKubectl(ctx, bytes.NewReader(object), "apply", "-f", "-")
}
