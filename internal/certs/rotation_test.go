package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// fleet is several replicas, and the API servers that ask them.
type fleet struct {
	*world
	replicas  []*Keeper
	requested int
	refused   []string
	bundles   map[string][]anchor
	verified  map[string]error
}

func newFleet(w *world, replicas ...*Keeper) *fleet {
	return &fleet{world: w, replicas: replicas, bundles: map[string][]anchor{}, verified: map[string]error{}}
}

// spend lets time pass with requests all the while: every replica that is ready
// is asked by API servers that hear of the bundle at once, soon and late.
func (f *fleet) spend(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		synctest.Wait()
		for i, k := range f.replicas {
			if k.Status().Problem != "" {
				continue
			}
			c, err := k.GetCertificate(nil)
			if err != nil {
				f.t.Fatalf("ready without certificate: %v", err)
			}
			for _, server := range []struct{ late, ahead time.Duration }{{0, 0}, {2 * time.Second, -9 * time.Second}, {9 * time.Second, 4 * time.Second}} {
				f.requested++
				if err := f.verify(c.Leaf, f.heard(server.late), server.ahead); err != nil {
					f.refused = append(f.refused, fmt.Sprintf("%s: replica %d asked by who hears after %s, with a clock %s ahead: %v",
						time.Now().Format(time.TimeOnly), i, server.late, server.ahead, err))
				}
			}
		}
	}
}

// verify is what an API server does at a handshake. An answer is good again
// while no certificate has begun or ended.
func (f *fleet) verify(leaf *x509.Certificate, bundle string, ahead time.Duration) error {
	now := time.Now().Add(ahead)
	if f.bundles[bundle] == nil {
		f.bundles[bundle] = parseBundle([]byte(bundle))
	}
	key := fmt.Sprintf("%s %s %d %d", leaf.Raw, bundle, now.Compare(leaf.NotBefore), now.Compare(leaf.NotAfter))
	roots := x509.NewCertPool()
	for _, a := range f.bundles[bundle] {
		roots.AddCert(a.cert)
		key += fmt.Sprintf(" %d %d", now.Compare(a.cert.NotBefore), now.Compare(a.cert.NotAfter))
	}
	err, known := f.verified[key]
	if !known {
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
		f.verified[key] = err
	}
	return err
}

func (f *fleet) expectNoneRefused(during string, least int) {
	f.t.Helper()
	if len(f.refused) > 0 {
		f.t.Errorf("%s: %d of %d requests refused, the first: %s", during, len(f.refused), f.requested, f.refused[0])
	}
	if f.requested < least {
		f.t.Errorf("%s: only %d requests", during, f.requested)
	}
	f.requested, f.refused = 0, nil
}

// The CA and every leaf change again and again while API servers ask replicas
// that hear of it at different times. Nobody is refused, nobody leads, and in
// the end the bundle holds what is needed and no more.
func TestRotationLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f := newFleet(w)
		ctx, stop := context.WithCancel(t.Context())
		var ended []chan struct{}
		add := func() {
			k, end := w.replica(ctx, slog.DiscardHandler)
			f.replicas, ended = append(f.replicas, k), append(ended, end)
		}
		add()
		add()
		f.spend(10 * time.Second)
		if f.requested > 0 {
			t.Fatal("ready without a CA")
		}
		one := newCA(t, time.Now(), 24*time.Hour)
		w.rotate(one)
		f.spend(time.Minute)
		f.expectNoneRefused("from nothing to ready", 100)
		if got := w.bundle(); got != one.pem() {
			t.Errorf("bundle\n%s", got)
		}
		f.spend(testLeaf)
		f.expectNoneRefused("while leaves are renewed", 3000)

		two := newCA(t, time.Now(), 24*time.Hour)
		w.rotate(two)
		f.spend(5 * time.Second)
		add() // in the middle of it
		f.spend(2 * time.Minute)
		f.expectNoneRefused("while the CA changes", 300)
		for i, k := range f.replicas {
			if c, _ := k.GetCertificate(nil); c.Leaf.CheckSignatureFrom(two.Certificate) != nil {
				t.Errorf("replica %d still serves a leaf of the old CA", i)
			}
		}
		for _, life := range []time.Duration{time.Second, 7 * time.Second, 15 * time.Second} {
			w.rotate(newCA(t, time.Now(), 24*time.Hour))
			f.spend(life)
		}
		w.rotate(one) // restored from a backup
		f.spend(testLeaf / 2)
		f.expectNoneRefused("while the CA changes fast", 1000)
		if n := len(parseBundle([]byte(w.bundle()))); n < 3 {
			t.Errorf("%d certificates in the bundle, and leaves of the old CAs could be served", n)
		}
		f.spend(2 * testLeaf)
		f.expectNoneRefused("after that", 3000)
		if got := w.bundle(); got != one.pem() {
			t.Errorf("in the end the bundle is\n%s", got)
		}
		if w.writes > 15 {
			t.Errorf("%d writes of the bundle", w.writes)
		}
		writes := w.writes
		f.spend(10 * time.Minute)
		if w.writes != writes {
			t.Error("written again without need")
		}
		stop()
		for _, end := range ended {
			<-end
		}
	})
}

// Whatever becomes of the bundle, it is mended at once.
func TestBundleIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		var log strings.Builder
		k, ended := w.replica(ctx, slog.NewTextHandler(&log, nil))
		ca := newCA(t, time.Now(), 24*time.Hour)
		w.rotate(ca)
		time.Sleep(time.Minute)
		foreign := newCA(t, time.Now().Add(-time.Hour), 24*time.Hour)
		for name, c := range map[string]struct {
			bundle string
			certs  int
		}{
			"emptied":               {"", 1},
			"nonsense":              {"nonsense", 1},
			"somebody else's alone": {foreign.pem(), 2},
		} {
			w.write(c.bundle)
			synctest.Wait() // and no time passes
			got := parseBundle([]byte(w.bundle()))
			if len(got) != c.certs || !got[0].cert.Equal(ca.Certificate) {
				t.Errorf("%s: bundle\n%s", name, w.bundle())
			}
		}
		time.Sleep(2 * time.Second)
		kept := time.Now()
		if s := k.Status(); s.Problem != "" || s.CA == nil || kept.Sub(s.CA.Kept) > 10*time.Second || !s.CA.InBundle || !s.CA.NotAfter.Equal(ca.NotAfter) {
			t.Errorf("status %+v", s)
		}

		// What a replica cannot know, while the API server is away, changes nothing.
		w.away.Store(true)
		time.Sleep(time.Minute)
		if s := k.Status(); s.Problem != "" || !strings.Contains(s.Trouble, "reading webhook configuration") || s.CA.Kept.After(kept.Add(10*time.Second)) {
			t.Errorf("while the API server is away: status %+v", s)
		}
		w.away.Store(false)
		time.Sleep(5 * time.Second)
		if s := k.Status(); s.Problem != "" || s.Trouble != "" || time.Since(s.CA.Kept) > 10*time.Second {
			t.Errorf("when it is back: status %+v", s)
		}

		// Without a webhook configuration there is nobody to trust us; when it is
		// back, as a chart installs it, all is well again.
		if err := w.client.Tracker().Delete(configurations, "", "latchkey-injector"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if s := k.Status(); !strings.Contains(s.Problem, `webhook configuration "latchkey-injector" does not exist`) || s.CA.InBundle {
			t.Errorf("status %+v", s)
		}
		if err := w.client.Tracker().Create(configurations, w.configuration(""), ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if s := k.Status(); s.Problem != "" || w.bundle() != ca.pem() {
			t.Errorf("status %+v, bundle\n%s", s, w.bundle())
		}
		stop()
		<-ended
		if n := strings.Count(log.String(), "does not exist"); n < 1 || n > 2 {
			t.Errorf("a missing configuration was reported %d times:\n%s", n, &log)
		}
	})
}

// Replicas that write at once do not fight.
func TestBundleIsWrittenWithoutFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ca := newCA(t, time.Now(), 24*time.Hour)
		w.rotate(ca)
		a := newSelfManaged(w.options(), w.client, nil, slog.New(slog.DiscardHandler))
		// Another replica has read the same, and its write arrives first.
		w.conflict = func() { w.write(ca.pem()) }
		if err := a.look(t.Context()); err != nil {
			t.Error(err)
		}
		if w.writes != 1 {
			t.Errorf("%d writes", w.writes)
		}
		// Somebody who always is faster is named, and not fought for ever.
		n := 0
		w.conflict = func() { n++; w.write(strings.Repeat("#", n)) }
		w.write("")
		if err := a.look(t.Context()); err == nil || !strings.Contains(err.Error(), "changes faster than it can be written") {
			t.Errorf("ended with %v after %d", err, n)
		}
	})
}

func TestLookSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *SelfManaged)
		want   string
	}{
		"another service": {func(_ *world, o *SelfManaged) { o.Service = "hook" },
			`no webhook of configuration "latchkey-injector" calls Service latchkey/hook`},
		"no configuration": {func(_ *world, o *SelfManaged) { o.WebhookConfiguration = "hooks" }, `webhook configuration "hooks" does not exist (`},
		"no certificate": {func(w *world, _ *SelfManaged) { w.ca = &testCA{Certificate: &x509.Certificate{}} },
			"reading CA in Secret latchkey/ca: tls.crt holds no certificate"},
		"forbidden": {func(w *world, _ *SelfManaged) {
			w.client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(configurations.GroupResource(), "latchkey-injector", fmt.Errorf("no RBAC"))
			})
		}, `writing caBundle of webhook configuration "latchkey-injector": `},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.rotate(newCA(t, time.Now(), time.Hour))
			o := w.options()
			c.change(w, &o)
			if err := newSelfManaged(o, w.client, nil, slog.New(slog.DiscardHandler)).look(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// What RBAC lacks is said at the start, all of it, until it is granted. Who may
// read but not write serves, and says so.
func TestPermissionsAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ca := newCA(t, time.Now().Add(-time.Hour), 24*time.Hour)
		w.rotate(ca)
		w.write(ca.pem())
		var may atomic.Pointer[[]string]
		may.Store(&[]string{"create", "get", "update"})
		w.client.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
			r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
			what := r.Spec.ResourceAttributes
			r.Status.Allowed = slices.Contains(*may.Load(), what.Verb) && (what.Verb != "create" || what.Name == "" && what.Namespace == "latchkey")
			return true, r, nil
		})
		ctx, stop := context.WithCancel(t.Context())
		k, ended := w.replica(ctx, slog.DiscardHandler)
		after := func(d time.Duration) Status {
			time.Sleep(d)
			synctest.Wait()
			return k.Status()
		}
		const want = `the pod's ServiceAccount may not list secrets "ca", watch secrets "ca", list mutatingwebhookconfigurations "latchkey-injector", ` +
			`watch mutatingwebhookconfigurations "latchkey-injector", patch mutatingwebhookconfigurations "latchkey-injector" (grant it by a Role in namespace latchkey`
		if s := after(time.Minute); !strings.Contains(s.Problem, want) {
			t.Errorf("status %+v, want the problem %s", s, want)
		}
		may.Store(&[]string{"get", "list", "watch"})
		start := time.Now()
		s := after(2 * time.Minute)
		if !strings.Contains(s.Trouble, `may not create secrets, update secrets "ca", patch mutatingwebhookconfigurations "latchkey-injector"`) || s.Problem != "" {
			t.Errorf("with the rights to read: status %+v", s)
		}
		if s.CA == nil || s.CA.Kept.After(start) {
			t.Errorf("without the right to keep the bundle it is said to be kept: %+v", s.CA)
		}
		may.Store(&[]string{"create", "get", "list", "watch", "update", "patch"})
		if s := after(time.Minute); s.Problem != "" || s.Trouble != "" || !s.CA.Kept.After(start) {
			t.Errorf("with all rights: status %+v", s)
		}
		stop()
		<-ended
	})
}
