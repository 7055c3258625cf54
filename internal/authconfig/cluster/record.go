package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// RecordName is the ConfigMap, in authconfig's namespace, that holds the record.
const RecordName = "latchkey-authconfig"

const recordKey = "record.json"

// recordRemedy is for a record that is there and says nothing: to go on with an
// empty one would be to forget what is ours.
const recordRemedy = "restore it from a backup, or delete the ConfigMap: then nothing in Vault counts as authconfig's, until it runs once with mount.adopt"

// Record implements API.
func (c *Client) Record(ctx context.Context) (plan.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.configMap(ctx, c.Namespace, RecordName)
	if apierrors.IsNotFound(err) {
		c.record = nil
		return plan.Record{}, nil
	}
	if err != nil {
		return plan.Record{}, err
	}
	r, err := readRecord(m.Data)
	if err != nil {
		return plan.Record{}, fmt.Errorf("reading ConfigMap %s/%s: %w", c.Namespace, RecordName, err)
	}
	c.record = m
	return r, nil
}

func readRecord(data map[string]string) (plan.Record, error) {
	text, ok := data[recordKey]
	if !ok {
		return plan.Record{}, fmt.Errorf("it has no key %s: %s", recordKey, recordRemedy)
	}
	var r plan.Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return plan.Record{}, fmt.Errorf("key %s: %w: %s", recordKey, err, recordRemedy)
	}
	if r.Version != plan.RecordVersion {
		return plan.Record{}, fmt.Errorf("key %s: its version is %d, and this build understands %d only: run the build that wrote it, or %s",
			recordKey, r.Version, plan.RecordVersion, recordRemedy)
	}
	return r, nil
}

// SaveRecord implements API. A record that is as it was is not written.
func (c *Client) SaveRecord(ctx context.Context, r plan.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Version = plan.RecordVersion
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the record: %w", err)
	}
	if c.record != nil && c.record.Data[recordKey] == string(text) {
		return nil
	}
	saved, err := c.storeRecord(ctx, string(text))
	if err != nil {
		return fmt.Errorf("writing ConfigMap %s/%s: %w", c.Namespace, RecordName, err)
	}
	c.record = saved
	return nil
}

// storeRecord makes the ConfigMap, or changes the one that was read: its
// resourceVersion goes along, so that the API server refuses if another was
// faster.
func (c *Client) storeRecord(ctx context.Context, text string) (*corev1.ConfigMap, error) {
	maps := c.kube.CoreV1().ConfigMaps(c.Namespace)
	if c.record == nil {
		m, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: RecordName, Namespace: c.Namespace, Labels: c.labels()},
			Data:       map[string]string{recordKey: text},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = fmt.Errorf("another has made it since it was looked for: %w", err)
		}
		return m, rule{verb: "create", resource: "configmaps", namespace: c.Namespace}.missing(err)
	}
	m := c.record.DeepCopy()
	m.Data[recordKey] = text
	m, err := maps.Update(ctx, m, metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err):
		err = fmt.Errorf("another has changed it since it was read: %w", err)
	case apierrors.IsNotFound(err):
		err = fmt.Errorf("another has deleted it since it was read: %w", err)
	}
	return m, rule{verb: "update", resource: "configmaps", namespace: c.Namespace, name: RecordName}.missing(err)
}
