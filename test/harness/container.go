package harness

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Logs returns what a container has written so far.
func (c *Cluster) Logs(ctx context.Context, namespace, pod, container string) (string, error) {
	data, err := c.Kube.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the log of %s/%s: %w", pod, container, err)
	}
	return string(data), nil
}

// Logs returns what a container has written so far.
func (s *Space) Logs(pod, container string) string {
	s.Helper()
	log, err := s.Cluster.Logs(s.Context(), s.Name, pod, container)
	if err != nil {
		s.Fatal(err)
	}
	return log
}

// WaitLog follows a container's log until it holds text, and returns all of
// it. The container must have been started.
func (c *Cluster) WaitLog(ctx context.Context, namespace, pod, container, text string) (string, error) {
	stream, err := c.Kube.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(ctx)
	if err != nil {
		return "", fmt.Errorf("following the log of %s/%s: %w", pod, container, err)
	}
	defer stream.Close()
	var all strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := stream.Read(buf)
		all.Write(buf[:n])
		if strings.Contains(all.String(), text) {
			return all.String(), nil
		}
		if err != nil {
			return "", fmt.Errorf("waiting for %q in the log of %s/%s: %w, the log is:\n%s", text, pod, container, err, all.String())
		}
	}
}

// WaitLog follows a container's log until it holds text, and returns all of it.
func (s *Space) WaitLog(pod, container, text string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	log, err := s.Cluster.WaitLog(ctx, s.Name, pod, container, text)
	if err != nil {
		s.Fatal(err)
	}
	return log
}

// Exec runs a command in a container and returns what it printed, first on
// its standard output and then on its standard error.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, command ...string) (string, error) {
	request := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.REST, "GET", request.URL().String())
	if err != nil {
		return "", fmt.Errorf("running %q in %s/%s: %w", command, pod, container, err)
	}
	// Two buffers: the streams are copied at the same time.
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("running %q in %s/%s: %w", command, pod, container, err)
	}
	return stdout.String() + stderr.String(), err
}

// Exec runs a command in a container that must succeed.
func (s *Space) Exec(pod, container string, command ...string) string {
	s.Helper()
	out, err := s.Cluster.Exec(s.Context(), s.Name, pod, container, command...)
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return out
}

// WaitFile looks until a file is as wanted, as a container sees it: nothing
// tells of a change to a file in a container.
func (s *Space) WaitFile(pod, container, path, want string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := s.Cluster.Exec(ctx, s.Name, pod, container, "cat", path)
		if err == nil && got == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("waiting for %s to hold %q: it holds %q (%v)", path, want, got, err)
		}
	}
}
