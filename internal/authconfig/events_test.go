package authconfig

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// "kubectl describe configmap" asks for the Events of that name and uid.
func TestDescribeFindsEvents(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "latchkey", Name: "latchkey-authconfig", UID: "41ce"}})
	written := make(chan *corev1.Event, 1)
	kube.PrependReactor("create", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
		e := a.(clienttesting.CreateAction).GetObject().(*corev1.Event)
		written <- e
		return true, e, nil
	})
	teller, stop := newTeller(kube.CoreV1(), "latchkey", slog.New(slog.DiscardHandler))
	defer stop()
	teller.tell(&Round{Err: errors.New("Vault is down")})
	if about := (<-written).InvolvedObject; about.Name != "latchkey-authconfig" || about.UID != "41ce" {
		t.Errorf("the Event is about %s, uid %q, want that of the ConfigMap, %q", about.Name, about.UID, "41ce")
	}
}

// What Events are about is there before anything can be wrong with Vault.
func TestTheRecordIsThereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = func(call string) error {
			if call == "Observe" {
				return errors.New("connection refused")
			}
			return nil
		}
		r := run(t, w, nil)
		synctest.Wait()
		if len(r.events()) == 0 || r.count("SaveRecord") == 0 {
			t.Error("Vault is down, and the ConfigMap that the Event is about is not there")
		}
	})
}
