package cluster

import (
	"errors"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

func TestRecordIsKept(t *testing.T) {
	c, w := newWorld(t)
	r, err := c.Record(t.Context())
	if err != nil || r.Version != 0 || r.Mount != "" {
		t.Fatalf("no record yet: %+v, %v", r, err)
	}
	r.Mount, r.Roles = "kubernetes", map[string]plan.RecordedRole{"app": {Source: "a/b", Hash: "h"}}
	for range 2 { // the second has nothing to write
		if err := c.SaveRecord(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	r.Accessor = "acc"
	if err := c.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if want := []string{"create configmaps", "update configmaps"}; !slices.Equal(w.writes(), want) {
		t.Errorf("writes %q, want %q", w.writes(), want)
	}
	other := &Client{Settings: c.Settings, kube: w}
	got, err := other.Record(t.Context())
	if err != nil || got.Version != 1 || got.Mount != "kubernetes" || got.Accessor != "acc" || got.Roles["app"].Hash != "h" {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func TestRecordKeepsWhatOthersAdded(t *testing.T) {
	m := configMap("lk", RecordName, map[string]string{"record.json": `{"version":1}`, "note": "hands off"})
	m.Labels = map[string]string{"team": "x"}
	c, w := newWorld(t, m)
	r, err := c.Record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Mount = "kubernetes"
	if err := c.SaveRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := w.CoreV1().ConfigMaps("lk").Get(t.Context(), RecordName, metav1.GetOptions{})
	if err != nil || got.Labels["team"] != "x" || got.Data["note"] != "hands off" || got.Data["record.json"] != `{"version":1,"mount":"kubernetes"}` {
		t.Errorf("got %v %v, %v", got.Labels, got.Data, err)
	}
}

func TestRecordIsNeverTakenForEmpty(t *testing.T) {
	for name, tt := range map[string]struct {
		data map[string]string
		want string
	}{
		"emptied":       {nil, "it has no key record.json"},
		"key renamed":   {map[string]string{"record": "{}"}, "it has no key record.json"},
		"key emptied":   {map[string]string{"record.json": ""}, "unexpected end of JSON input"},
		"cut":           {map[string]string{"record.json": `{"version":1,`}, "unexpected end of JSON input"},
		"no version":    {map[string]string{"record.json": `{}`}, "its version is 0, and this build understands 1 only"},
		"of the future": {map[string]string{"record.json": `{"version":2}`}, "its version is 2, and this build understands 1 only"},
	} {
		t.Run(name, func(t *testing.T) {
			c, w := newWorld(t, configMap("lk", RecordName, tt.data))
			_, err := c.Record(t.Context())
			wantError(t, err, "reading ConfigMap lk/latchkey-authconfig: ", tt.want, "restore it from a backup", "mount.adopt")
			// Who goes on all the same does not overwrite it.
			w.react("create", "configmaps", apierrors.NewAlreadyExists(configMaps, RecordName))
			if err := c.SaveRecord(t.Context(), plan.Record{}); err == nil {
				t.Error("it is overwritten")
			}
		})
	}
}

func TestRecordOfAnotherWriter(t *testing.T) {
	for name, tt := range map[string]struct {
		there bool
		verb  string
		err   error
		want  string
	}{
		"made":    {false, "create", apierrors.NewAlreadyExists(configMaps, RecordName), "another has made it since it was looked for"},
		"changed": {true, "update", apierrors.NewConflict(configMaps, RecordName, errors.New("it is at 7")), "another has changed it since it was read"},
		"deleted": {true, "update", apierrors.NewNotFound(configMaps, RecordName), "another has deleted it since it was read"},
	} {
		t.Run(name, func(t *testing.T) {
			c, w := newWorld(t)
			if tt.there {
				if err := w.Tracker().Add(configMap("lk", RecordName, map[string]string{"record.json": `{"version":1}`})); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Record(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.react(tt.verb, "configmaps", tt.err)
			wantError(t, c.SaveRecord(t.Context(), plan.Record{Mount: "x"}), "writing ConfigMap lk/latchkey-authconfig: ", tt.want)
		})
	}
}

func TestRecordForbidden(t *testing.T) {
	c, w := newWorld(t)
	w.forbidden = []string{"create configmaps"}
	err := c.SaveRecord(t.Context(), plan.Record{})
	wantError(t, err, `apiGroups [""], resources [configmaps], verbs [create]`)
	c, w = newWorld(t, configMap("lk", RecordName, map[string]string{"record.json": `{"version":1}`}))
	w.forbidden = []string{"update configmaps"}
	if _, err := c.Record(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = c.SaveRecord(t.Context(), plan.Record{Mount: "x"})
	wantError(t, err, "resources [configmaps], resourceNames [latchkey-authconfig], verbs [update]")
}
