// Package chart renders the Helm chart, in every case below testdata: a folder
// with values.yaml, perhaps args (further arguments of helm template, one a
// line), and want.yaml, or want.err with helm's error.
package chart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Namespace and Release are those that the cases are rendered for.
const (
	Namespace = "latchkey"
	Release   = "latchkey"
)

// A Case is one folder of testdata.
type Case struct {
	Name string
	Dir  string
}

// Cases are those of a checkout, whose root is given.
func Cases(checkout string) ([]Case, error) {
	root := filepath.Join(checkout, "test", "chart", "testdata")
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("listing the chart's cases: %w", err)
	}
	var cases []Case
	for _, d := range dirs {
		cases = append(cases, Case{d.Name(), filepath.Join(root, d.Name())})
	}
	return cases, nil
}

// Refused tells whether the chart is meant to refuse the values.
func (c Case) Refused() bool {
	_, err := os.Stat(filepath.Join(c.Dir, "want.err"))
	return err == nil
}

// Render renders a chart with the case's arguments and a file of values. The
// error of an unwelcome value is helm's own text.
func (c Case) Render(ctx context.Context, helm, chart, values string) (string, error) {
	args := []string{"template", Release, chart, "--namespace", Namespace, "--values", values}
	more, err := os.ReadFile(filepath.Join(c.Dir, "args"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading helm's arguments: %w", err)
	}
	args = append(args, strings.Fields(string(more))...)
	cmd := exec.CommandContext(ctx, helm, args...)
	// Nothing of the user's own Helm settings may matter, nor a cluster.
	home := filepath.Dir(values)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+os.DevNull,
		"HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "HELM_CACHE_HOME="+home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if stderr.Len() == 0 {
			return "", fmt.Errorf("running helm: %w", err)
		}
		return "", errors.New(strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
