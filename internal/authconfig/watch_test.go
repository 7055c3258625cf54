package authconfig

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
)

// What is watched is what the configuration makes use of, each by its name.
func TestWatches(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   []string
	}{
		{nil, []string{"configmaps latchkey/kube-root-ca.crt", "configmaps vault-auth/vault-auth-roles", "secrets latchkey/latchkey-reviewer-a",
			"secrets latchkey/latchkey-reviewer-b", "serviceaccounts latchkey/latchkey-reviewer"}},
		{func(c *Config) { c.Reviewer.Mode = reviewer.LongLived }, []string{"configmaps latchkey/kube-root-ca.crt", "configmaps vault-auth/vault-auth-roles",
			"secrets latchkey/latchkey-reviewer-token", "serviceaccounts latchkey/latchkey-reviewer"}},
		{func(c *Config) { c.Reviewer.Mode, c.Reviewer.Create = reviewer.Local, true }, []string{"clusterrolebindings latchkey-authconfig-delegators-latchkey",
			"configmaps latchkey/kube-root-ca.crt", "configmaps vault-auth/vault-auth-roles", "serviceaccounts latchkey/latchkey-reviewer"}},
	} {
		var got []string
		for _, w := range configured(c.change).watches("latchkey") {
			got = append(got, w.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func object(name, uid, version string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(uid), ResourceVersion: version}}
}

// Every change of the object is told, and none of what was there at the start,
// nor of others.
func TestWatchTells(t *testing.T) {
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := metadatafake.NewSimpleMetadataClient(scheme, object("roles", "1", "1"), object("others", "9", "1"))
	changes := make(chan change, 10)
	w := watched{configMaps, "shop", "roles"}
	watch(t.Context(), client, []watched{w}, slog.New(slog.DiscardHandler), nil, func(c change) { changes <- c })
	next := func() change {
		select {
		case c := <-changes:
			return c
		case <-time.After(time.Minute): // for a machine that is busy
			t.Fatal("no change was told")
			return change{}
		}
	}
	resource := client.Resource(configMaps).Namespace("shop").(metadatafake.MetadataClient)
	must := func(_ *metav1.PartialObjectMetadata, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(resource.UpdateFake(object("others", "9", "2"), metav1.UpdateOptions{}))
	must(resource.UpdateFake(object("roles", "1", "2"), metav1.UpdateOptions{}))
	if got, want := next(), (change{w, false, "1"}); got != want {
		t.Errorf("an update is told as %v, want %v", got, want)
	}
	// Deleted and made again, of which only the end was seen.
	must(resource.UpdateFake(object("roles", "2", "3"), metav1.UpdateOptions{}))
	if got, want := next(), (change{w, true, "1"}); got != want {
		t.Errorf("a new object is told as %v, want %v", got, want)
	}
	if got, want := next(), (change{w, false, "2"}); got != want {
		t.Errorf("a new object is told as %v, want %v", got, want)
	}
	if err := resource.Delete(t.Context(), "roles", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, want := next(), (change{w, true, "2"}); got != want {
		t.Errorf("a deletion is told as %v, want %v", got, want)
	}
	must(resource.CreateFake(object("roles", "3", "4"), metav1.CreateOptions{}))
	if got, want := next(), (change{w, false, "3"}); got != want {
		t.Errorf("a creation is told as %v, want %v", got, want)
	}
	if len(changes) > 0 {
		t.Errorf("more was told: %v", <-changes)
	}
}

// An object that may not be watched is told once, and does not hold up the rest.
func TestWatchIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		client := metadatafake.NewSimpleMetadataClient(scheme)
		client.PrependReactor("*", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("forbidden")
		})
		var log strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		patience, stop := context.WithTimeout(ctx, syncPatience)
		defer stop()
		began := time.Now()
		watch(ctx, client, []watched{{configMaps, "shop", "roles"}}, slog.New(slog.NewTextHandler(&log, nil)), patience.Done(), func(change) {})
		if d := time.Since(began); d > syncPatience+time.Second {
			t.Errorf("it was waited for %s", d)
		}
		time.Sleep(10 * time.Minute)
		cancel()
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot be watched for now"); n != 1 || !strings.Contains(log.String(), "configmaps shop/roles") {
			t.Errorf("told %d times:\n%s", n, &log)
		}
	})
}

// What is there when an object can be watched at last has not been looked at.
func TestWatchIsAllowedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		client := metadatafake.NewSimpleMetadataClient(scheme, object("roles", "1", "1"))
		var allowed atomic.Bool
		client.PrependReactor("*", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return !allowed.Load(), nil, errors.New("forbidden")
		})
		ctx, cancel := context.WithCancel(t.Context())
		patience, stop := context.WithTimeout(ctx, syncPatience)
		defer stop()
		changes := make(chan change, 10)
		w := watched{configMaps, "shop", "roles"}
		watch(ctx, client, []watched{w}, slog.New(slog.DiscardHandler), patience.Done(), func(c change) { changes <- c })
		allowed.Store(true)
		time.Sleep(10 * time.Minute)
		cancel()
		synctest.Wait()
		close(changes)
		var told []change
		for c := range changes {
			told = append(told, c)
		}
		if want := []change{{w, false, "1"}}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}
