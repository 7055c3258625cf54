package harness

import (
	"context"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// Parse reads one object from YAML.
func Parse(text string) (*unstructured.Unstructured, error) {
	var u unstructured.Unstructured
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096).Decode(&u.Object); err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	return &u, nil
}

// Resource is the API endpoint for objects of this kind.
func (c *Cluster) Resource(u *unstructured.Unstructured, namespace string) (dynamic.ResourceInterface, error) {
	kind := u.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, fmt.Errorf("finding the resource of %s: %w", kind, err)
	}
	return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// Create creates one object from YAML and returns what the API server made of
// it, or its refusal. With dryRun nothing is stored.
func (c *Cluster) Create(ctx context.Context, namespace, text string, dryRun bool) (*unstructured.Unstructured, error) {
	c.steady.RLock()
	defer c.steady.RUnlock()
	return c.create(ctx, namespace, text, dryRun)
}

func (c *Cluster) create(ctx context.Context, namespace, text string, dryRun bool) (*unstructured.Unstructured, error) {
	u, err := Parse(text)
	if err != nil {
		return nil, err
	}
	resource, err := c.Resource(u, namespace)
	if err != nil {
		return nil, err
	}
	opts := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	return resource.Create(ctx, u, opts)
}

// Create creates one object from YAML in the test's namespace.
func (s *Space) Create(text string) *unstructured.Unstructured {
	s.Helper()
	u, err := s.Cluster.Create(s.Context(), s.Name, text, false)
	if err != nil {
		s.Fatalf("creating: %v\n%s", err, text)
	}
	return u
}

// DryRun returns what the API server would store.
func (s *Space) DryRun(text string) *unstructured.Unstructured {
	s.Helper()
	u, err := s.Cluster.Create(s.Context(), s.Name, text, true)
	if err != nil {
		s.Fatalf("creating with a dry run: %v\n%s", err, text)
	}
	return u
}

// DeleteNamespace deletes a namespace, if there is one, and waits until all of
// it is gone.
func (c *Cluster) DeleteNamespace(ctx context.Context, name string) error {
	err := c.Kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting namespace %s: %w", name, err)
	}
	return c.waitGone(ctx, "namespaces", "", name, &corev1.Namespace{})
}
