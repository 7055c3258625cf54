package authconfig

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// mostTold is how many complaints about one ConfigMap are told in one round:
// whoever may edit it must not be able to drown those of others.
const mostTold = 20

// longestEvent is how long the text of an Event may be, in bytes (core/v1 says
// none, events.k8s.io/v1 1024).
const longestEvent = 1024

// The reasons of Events.
const (
	invalidRole     = "InvalidRole"     // on the source ConfigMap
	refused         = "Refused"         // on the source ConfigMap, or that with the record
	roleWritten     = "RoleWritten"     // on the source ConfigMap
	roleDeleted     = "RoleDeleted"     // on the source ConfigMap
	reconcileFailed = "ReconcileFailed" // on the ConfigMap with the record
	reconciled      = "Reconciled"      // there too, once after ReconcileFailed
)

// complaint is what is wrong about one thing that is wanted: a key of a ConfigMap,
// or anything else of the kind and name.
type complaint struct {
	reason string
	object string // the ConfigMap that an Event is about, namespace/name
	about  string
}

// complaints are all of a round, with their texts. own is the ConfigMap with the
// record.
func (r *Round) complaints(own string) map[complaint]string {
	all := map[complaint]string{}
	add := func(c complaint, text string) {
		if known, ok := all[c]; ok {
			text = known + "; " + text
		}
		all[c] = text
	}
	for _, p := range r.Plan.Problems {
		about := ""
		if p.Key != "" {
			about = "key " + p.Key
		}
		add(complaint{invalidRole, p.Source, about}, p.Text)
	}
	for _, f := range r.Plan.Refused {
		object := f.Source
		if object == "" {
			object = own
		}
		add(complaint{refused, object, string(f.Kind) + " " + f.Name}, f.Text)
	}
	return all
}

// teller tells what is new in a round: people in Events what concerns their
// ConfigMap, and the operator in the log, and in Events on the ConfigMap with the
// record, what concerns all.
type teller struct {
	log      *slog.Logger
	recorder record.EventRecorder
	// uid is that of a ConfigMap, or empty. Without it "kubectl describe" finds no
	// Event of one.
	uid    func(namespace, name string) types.UID
	uids   map[string]types.UID // those that a round has asked for
	own    string               // the ConfigMap with the record, namespace/name
	said   map[complaint]string // as of the last round
	notes  []string
	failed string
}

// uidPatience is how long it may take to learn a ConfigMap's uid.
const uidPatience = 5 * time.Second

// newTeller writes Events through a client, until stop is called.
func newTeller(client typedv1.CoreV1Interface, namespace string, log *slog.Logger) (t *teller, stop func()) {
	// What is told in one round is not put together to one Event, nor dropped; of
	// what was done beside it, some may be.
	b := record.NewBroadcaster(record.WithCorrelatorOptions(record.CorrelatorOptions{MaxEvents: mostTold + 2, BurstSize: 2 * mostTold}))
	b.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.Events("")})
	recorder := b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "latchkey-authconfig"})
	uid := func(namespace, name string) types.UID {
		ctx, cancel := context.WithTimeout(context.Background(), uidPatience)
		defer cancel()
		m, err := client.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "" // the Event is about the name, then
		}
		return m.UID
	}
	return &teller{log: log, recorder: recorder, uid: uid, own: namespace + "/" + cluster.RecordName}, b.Shutdown
}

func (t *teller) tell(r *Round) {
	t.uids = nil // ConfigMaps come and go
	if r.Look != nil {
		t.wrong(r) // first: the API client passes on so many Events of an object, and no more
		t.done(r)
	}
	switch {
	case r.Err != nil:
		t.log.Error("keeping the mount", "error", r.Err)
		if text := r.Err.Error(); text != t.failed {
			t.failed = text
			t.event(t.own, corev1.EventTypeWarning, reconcileFailed, text)
		}
	case t.failed != "":
		t.failed = ""
		t.log.Info("what failed before is done")
		t.event(t.own, corev1.EventTypeNormal, reconciled, "what failed before is done")
	}
}

// ended tells of a round that the end of the process cut short.
func (t *teller) ended(r *Round) {
	if r.Look == nil {
		return
	}
	t.uids = map[string]types.UID{}
	t.done(r)
	t.log.Info("ending before all is done", "reason", r.Err)
}

// done tells of the steps of a round.
func (t *teller) done(r *Round) {
	for _, done := range r.Results {
		s := done.Step
		if done.Err != nil {
			continue // the round's error has it
		}
		attrs := []any{}
		for _, a := range [][2]string{{"why", s.Why}, {"source", s.Source}} {
			if a[1] != "" {
				attrs = append(attrs, a[0], a[1])
			}
		}
		if s.Drift {
			attrs = append(attrs, "drift", true)
		}
		t.log.Info(s.String(), attrs...)
		if s.Kind != plan.KindRole || s.Source == "" {
			continue
		}
		path := "auth/" + r.Plan.Mount + "/role/" + s.Name
		if s.Verb == plan.Delete {
			t.event(s.Source, corev1.EventTypeNormal, roleDeleted, "deleted "+path+" from Vault")
		} else {
			t.event(s.Source, corev1.EventTypeNormal, roleWritten, "wrote "+path+" to Vault")
		}
	}
}

// wrong tells what is wrong, once until it changes.
func (t *teller) wrong(r *Round) {
	now, told := r.complaints(t.own), map[string]int{}
	for _, c := range slices.SortedFunc(maps.Keys(now), func(a, b complaint) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.about, b.about), cmp.Compare(a.reason, b.reason))
	}) {
		text := now[c]
		if t.said[c] == text {
			continue
		}
		if told[c.object]++; told[c.object] > mostTold {
			continue
		}
		if c.about == "" {
			text = "the ConfigMap " + text
		} else {
			text = c.about + ": " + text
		}
		t.log.Warn("leaving as it is: "+text, "configMap", c.object)
		t.event(c.object, corev1.EventTypeWarning, c.reason, text)
	}
	for object, n := range told {
		if n > mostTold {
			text := fmt.Sprintf("and %d more things are left as they are (authconfig plan prints all)", n-mostTold)
			t.log.Warn(text, "configMap", object)
			t.event(object, corev1.EventTypeWarning, invalidRole, text)
		}
	}
	mended := map[string]int{}
	for c := range t.said {
		if _, still := now[c]; still {
			continue
		}
		if mended[c.object]++; mended[c.object] <= mostTold {
			t.log.Info("no longer wrong: "+cmp.Or(c.about, "the ConfigMap"), "configMap", c.object)
		}
	}
	t.said = now
	for _, note := range r.Notes {
		if !slices.Contains(t.notes, note) {
			t.log.Warn(note)
		}
	}
	t.notes = r.Notes
}

// event writes an Event about a ConfigMap (namespace/name).
func (t *teller) event(object, kind, reason, text string) {
	namespace, name, _ := strings.Cut(object, "/")
	if len(text) > longestEvent {
		text = strings.ToValidUTF8(text[:longestEvent-len("…")], "") + "…"
	}
	uid, asked := t.uids[object]
	if !asked {
		if t.uids == nil {
			t.uids = map[string]types.UID{}
		}
		uid = t.uid(namespace, name)
		t.uids[object] = uid
	}
	t.recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: namespace, Name: name, UID: uid}, kind, reason, text)
}
