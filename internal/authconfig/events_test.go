package authconfig

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/latchkey-dev/latchkey/internal/authconfig/apply"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
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

// The API client drops Events of an object where there are many: what is wrong
// must not go under in what was done.
func TestNoMistakeGoesUnder(t *testing.T) {
	t.Parallel()
	const mistakes = 15
	kube := fake.NewClientset()
	written := make(chan string, 1000)
	kube.PrependReactor("*", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if c, ok := a.(clienttesting.CreateAction); ok {
			e := c.GetObject().(*corev1.Event)
			written <- e.Reason + " " + e.Message
			return true, e, nil
		}
		return true, &corev1.Event{}, nil
	})
	teller, stop := newTeller(kube.CoreV1(), "latchkey", slog.New(slog.DiscardHandler))
	defer stop()
	r := &Round{Look: new(Look)}
	for i := range 100 {
		r.Results = append(r.Results, apply.Result{Step: plan.Step{Verb: plan.Create, Kind: plan.KindRole, Name: fmt.Sprint("good", i), Source: source}})
	}
	for i := range mistakes {
		r.Plan.Problems = append(r.Plan.Problems, desired.Problem{Source: source, Key: fmt.Sprintf("bad%02d", i), Text: "is empty"})
	}
	teller.tell(r)
	for i := range mistakes {
		if got, want := <-written, fmt.Sprintf("InvalidRole key bad%02d: is empty", i); got != want {
			t.Fatalf("Event %d is %q, want %q", i, got, want)
		}
	}
}

// What Events are about is there before anything can be wrong with Vault.
func TestTheRecordIsThereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.fail = away
		r := run(t, w, nil)
		synctest.Wait()
		if len(r.events()) == 0 || r.count("SaveRecord") == 0 {
			t.Error("Vault is down, and the ConfigMap that the Event is about is not there")
		}
	})
}

// The API server takes no Event with a text that is longer.
func TestALongTextIsCut(t *testing.T) {
	recorder := record.NewFakeRecorder(1)
	teller := &teller{log: slog.New(slog.DiscardHandler), recorder: recorder, uid: func(string, string) types.UID { return "" }}
	teller.event("shop/roles", corev1.EventTypeWarning, "Refused", strings.Repeat("ä", longestEvent))
	told := strings.TrimPrefix(<-recorder.Events, "Warning Refused ")
	if len(told) > longestEvent || len(told) < longestEvent-3 || !strings.HasSuffix(told, "ä…") {
		t.Errorf("%d bytes are told, which end with %q", len(told), told[len(told)-8:])
	}
}
