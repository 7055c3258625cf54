package certs

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// running is one replica that is ready, of a CA an hour old.
func running(t *testing.T, f func(w *world, f *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		k, ended := w.replica(ctx, slog.DiscardHandler)
		w.rotate(newCA(t, time.Now().Add(-time.Hour), 24*time.Hour))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := k.Status(); s.Problem != "" {
			t.Fatalf("status %+v", s)
		}
		f(w, newFleet(w, k))
		stop()
		<-ended
	})
}

// A CA made by who has a clock that is ahead is not relied on before it is valid
// for everybody.
func TestCAOfTheFuture(t *testing.T) {
	for _, ahead := range []time.Duration{5 * time.Second, 15 * time.Second, time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			running(t, func(w *world, f *fleet) {
				next := newCA(t, time.Now().Add(ahead), 24*time.Hour)
				w.rotate(next)
				f.spend(20 * time.Minute)
				f.expectNoneRefused("with a CA of the future", 3000)
				c, err := f.replicas[0].GetCertificate(nil)
				if err != nil || c.Leaf.CheckSignatureFrom(next.Certificate) != nil {
					t.Errorf("in the end another CA's certificate is served: %v", err)
				}
			})
		})
	}
}

// A replica whose only certificate has a CA that is not valid yet is not ready.
func TestOnlyCAOfTheFuture(t *testing.T) {
	running(t, func(w *world, f *fleet) {
		w.rotate(newCA(t, time.Now().Add(time.Hour), 24*time.Hour))
		time.Sleep(30 * time.Minute) // what was served before has ended
		synctest.Wait()
		if s := f.replicas[0].Status(); !strings.Contains(s.Problem, "the certificate and its CA are valid from") {
			t.Errorf("status %+v", s)
		}
		f.spend(time.Hour)
		f.expectNoneRefused("when it is valid", 1000)
	})
}

// When somebody puts back a bundle without the old CA while a certificate of it
// is served, the new one, which is trusted, is served at once.
func TestOldCALeavesEarly(t *testing.T) {
	running(t, func(w *world, f *fleet) {
		next := newCA(t, time.Now(), 24*time.Hour)
		w.rotate(next)
		for !strings.Contains(w.bundle(), next.pem()) {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		time.Sleep(22 * time.Second) // until the replica signs with it
		served, _ := f.replicas[0].GetCertificate(nil)
		if served.Leaf.CheckSignatureFrom(next.Certificate) == nil {
			t.Fatal("the new CA is relied on at once")
		}
		w.write("")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := f.verify(mustServe(t, f.replicas[0]), w.bundle(), 0); err != nil {
			t.Error(err)
		}
	})
}

// A replica that reads the new CA but not the bundle is not ready when the old
// one may have left it.
func TestBundleOutOfSight(t *testing.T) {
	running(t, func(w *world, f *fleet) {
		w.client.PrependReactor("*", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewTimeoutError("cut", 1)
		})
		start := time.Now()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		s := f.replicas[0].Status()
		if s.Problem != "" || !strings.Contains(s.Trouble, "reading webhook configuration") || s.CA.Kept.After(start.Add(time.Second)) {
			t.Errorf("with the CA it knows: status %+v, CA %+v", s, s.CA)
		}
		w.mu.Lock()
		w.ca = newCA(t, time.Now(), 24*time.Hour) // and its authority does not hear of it
		w.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := f.replicas[0].Status(); s.Problem != "" {
			t.Errorf("while the old CA is in the bundle for sure: status %+v", s)
		}
		time.Sleep(testLeaf)
		synctest.Wait()
		if s := f.replicas[0].Status(); !strings.Contains(s.Problem, "another CA signs now") {
			t.Errorf("when it may have left: status %+v", s)
		}
	})
}

func mustServe(t *testing.T, k *Keeper) *x509.Certificate {
	t.Helper()
	c, err := k.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}
