package authconfig

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// holder is who holds the Lease.
func holder(t *testing.T, kube *fake.Clientset) string {
	t.Helper()
	l, err := kube.CoordinationV1().Leases("latchkey").Get(t.Context(), LeaseName, metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil {
		t.Fatalf("no holder: %v", err)
	}
	return *l.Spec.HolderIdentity
}

// candidate leads until stop is called, which is told by over.
type candidate struct {
	leads, ended, finish chan struct{}
	stop                 context.CancelFunc
	over                 chan error
}

func compete(t *testing.T, kube *fake.Clientset) *candidate {
	ctx, stop := context.WithCancel(t.Context())
	c := &candidate{make(chan struct{}), make(chan struct{}), make(chan struct{}), stop, make(chan error, 1)}
	go func() {
		c.over <- lead(ctx, kube, "latchkey", slog.New(slog.DiscardHandler), func(ctx context.Context) {
			close(c.leads)
			<-ctx.Done()
			close(c.ended)
			<-c.finish
		})
	}()
	return c
}

func leads(c *candidate) bool {
	synctest.Wait()
	select {
	case <-c.leads:
		return true
	default:
		return false
	}
}

// Nobody else leads before the work of the one that ends is done, and then
// somebody does at once.
func TestLeadIsGivenWhenWorkIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		first := compete(t, kube)
		time.Sleep(time.Second)
		if !leads(first) {
			t.Fatal("nobody leads")
		}
		if err := free(t.Context(), kube, "latchkey"); err == nil || !strings.Contains(err.Error(), holder(t, kube)+" keeps the mount already") {
			t.Errorf("a Lease that is held is free: %v", err)
		}
		second := compete(t, kube)
		time.Sleep(time.Minute)
		first.stop()
		<-first.ended
		time.Sleep(time.Minute) // its last step takes long
		if leads(second) {
			t.Fatal("two lead at once")
		}
		close(first.finish)
		if err := <-first.over; err != nil {
			t.Error(err)
		}
		if h := holder(t, kube); h != "" {
			t.Errorf("%s still holds the Lease", h)
		}
		time.Sleep(5 * time.Second)
		if !leads(second) {
			t.Error("nobody has taken over")
		}
		close(second.finish)
		second.stop()
		if err := <-second.over; err != nil {
			t.Error(err)
		}
		if err := free(t.Context(), kube, "latchkey"); err != nil {
			t.Error(err)
		}
	})
}

// Who cannot renew the Lease ends before another can get it, with an error.
func TestLostLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		c := compete(t, kube)
		close(c.finish)
		time.Sleep(time.Second)
		if !leads(c) {
			t.Fatal("nobody leads")
		}
		kube.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("the API server is gone")
		})
		lost := time.Now()
		<-c.ended
		if d := time.Since(lost); d >= leaseDuration {
			t.Errorf("it went on for %s without the Lease", d)
		}
		if err := <-c.over; !errors.Is(err, errLost) {
			t.Errorf("ended with %v", err)
		}
	})
}

// A Lease that its holder did not renew is free.
func TestLeaseOfTheDeadIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		if err := free(t.Context(), kube, "latchkey"); err != nil {
			t.Error(err)
		}
		c := compete(t, kube)
		close(c.finish)
		time.Sleep(time.Second)
		kube.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("gone")
		})
		<-c.over
		time.Sleep(leaseDuration)
		if err := free(t.Context(), kube, "latchkey"); err != nil {
			t.Error(err)
		}
	})
}

// Who waits ends as soon as it is asked to.
func TestStandbyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		first := compete(t, kube)
		time.Sleep(time.Second)
		second := compete(t, kube)
		time.Sleep(time.Second)
		close(first.finish)
		if !leads(first) || leads(second) {
			t.Fatal("the wrong one leads")
		}
		second.stop()
		if err := <-second.over; err != nil {
			t.Error(err)
		}
		if holder(t, kube) == "" {
			t.Error("who did not lead has given the Lease away")
		}
		first.stop()
		<-first.over
	})
}
