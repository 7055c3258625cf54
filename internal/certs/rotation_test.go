package certs

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const host = "latchkey-injector.latchkey.svc"

var configurations = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"}

// world is a cluster: a Secret, a webhook configuration, and what API servers
// have heard of it so far.
type world struct {
	t      *testing.T
	client *fake.Clientset

	mu       sync.Mutex
	ca       *testCA
	rotated  chan struct{} // closed by the next rotation
	bundles  []stored
	writes   int
	conflict func() // called before a write is looked at
	away     atomic.Bool
}

type stored struct {
	at     time.Time
	bundle string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, rotated: make(chan struct{})}
	w.client = fake.NewClientset(w.configuration(""))
	w.client.PrependReactor("create", "selfsubjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authorizationv1.SelfSubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}, nil
	})
	w.client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return w.away.Load(), nil, apierrors.NewServiceUnavailable("the API server is away")
	})
	w.client.PrependReactor("patch", "mutatingwebhookconfigurations", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, w.patch(a.(clienttesting.PatchAction).GetPatch())
	})
	w.client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ca == nil {
			return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "ca")
		}
		return true, &corev1.Secret{Data: map[string][]byte{"tls.crt": []byte(w.ca.pem())}}, nil
	})
	w.bundles = []stored{{time.Now(), ""}}
	return w
}

func (w *world) configuration(bundle string) *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "latchkey-injector", ResourceVersion: strconv.Itoa(w.writes + 1)},
		Webhooks: []admissionv1.MutatingWebhook{
			{Name: "foreign.example", ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "foreign", Name: "latchkey-injector"}}},
			{Name: "injector.latchkey.dev", ClientConfig: admissionv1.WebhookClientConfig{CABundle: []byte(bundle),
				Service: &admissionv1.ServiceReference{Namespace: "latchkey", Name: "latchkey-injector"}}},
		},
	}
}

// patch is the API server's side of a write: refused if it is not of the
// version that is stored, or touches anything but our bundle.
func (w *world) patch(data []byte) error {
	if w.conflict != nil {
		w.conflict()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var p struct {
		Metadata struct{ ResourceVersion string }
		Webhooks []struct {
			Name         string
			ClientConfig struct{ CABundle []byte }
		}
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	if p.Metadata.ResourceVersion != strconv.Itoa(w.writes+1) {
		return apierrors.NewConflict(configurations.GroupResource(), "latchkey-injector", fmt.Errorf("it is at %d", w.writes+1))
	}
	if len(p.Webhooks) != 1 || p.Webhooks[0].Name != "injector.latchkey.dev" {
		w.t.Errorf("patch %s", data)
	}
	return w.store(string(p.Webhooks[0].ClientConfig.CABundle))
}

// write is what somebody else does to the bundle.
func (w *world) write(bundle string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.store(bundle); err != nil {
		w.t.Error(err)
	}
}

func (w *world) store(bundle string) error {
	w.writes++
	w.bundles = append(w.bundles, stored{time.Now(), bundle})
	return w.client.Tracker().Update(configurations, w.configuration(bundle), "")
}

func (w *world) bundle() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bundles[len(w.bundles)-1].bundle
}

// rotate stores a new CA, as the authority of some replica does.
func (w *world) rotate(ca *testCA) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ca = ca
	close(w.rotated)
	w.rotated = make(chan struct{})
}

// heard is the bundle that an API server knows which hears of it that late.
func (w *world) heard(late time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.bundles) - 1; ; i-- {
		if i == 0 || !w.bundles[i].at.After(time.Now().Add(-late)) {
			return w.bundles[i].bundle
		}
	}
}

// lateAuthority is the authority of one replica, which hears of a rotation late.
type lateAuthority struct {
	w     *world
	life  time.Duration
	mu    sync.Mutex
	ca    *testCA
	chans []chan<- struct{}
}

func (a *lateAuthority) Run(ctx context.Context) error {
	for {
		a.w.mu.Lock()
		ca, rotated := a.w.ca, a.w.rotated
		a.w.mu.Unlock()
		select {
		case <-time.After(time.Duration(rand.Int64N(int64(20 * time.Second)))):
		case <-ctx.Done():
			return nil
		}
		a.mu.Lock()
		a.ca = ca
		for _, c := range a.chans {
			select {
			case c <- struct{}{}:
			default:
			}
		}
		a.mu.Unlock()
		select {
		case <-rotated:
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *lateAuthority) WatchRotation(c chan<- struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chans = append(a.chans, c)
}

func (*lateAuthority) StopWatchingRotation(chan<- struct{}) {}

func (a *lateAuthority) Sign(template *x509.Certificate) (*x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ca == nil {
		return nil, authority.ErrCertificateNotAvailable
	}
	template.SerialNumber = serial(a.w.t)
	template.NotBefore = time.Now()
	template.NotAfter = template.NotBefore.Add(a.life)
	return a.ca.sign(a.w.t, template, a.ca.Certificate, template.PublicKey), nil
}

const testLeaf = 10 * time.Minute

func (w *world) options() SelfManaged {
	return SelfManaged{Namespace: "latchkey", Secret: "ca", Service: "latchkey-injector", WebhookConfiguration: "latchkey-injector", LeafDuration: testLeaf}
}

// replica starts one, which ends with ctx; ended is closed then.
func (w *world) replica(ctx context.Context, log slog.Handler) (k *Keeper, ended chan struct{}) {
	l := slog.New(log)
	k, ended = newKeeper(newSelfManaged(w.options(), w.client, &lateAuthority{w: w, life: testLeaf}, l), l), make(chan struct{})
	go func() {
		defer close(ended)
		if err := k.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return k, ended
}

// fleet is several replicas, and the API servers that ask them.
type fleet struct {
	*world
	replicas  []*Keeper
	requested int
	refused   []string
	verified  map[[2]string]error
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
			for _, late := range []time.Duration{0, 2 * time.Second, 9 * time.Second} {
				f.requested++
				if err := f.verify(c.Leaf, f.heard(late)); err != nil {
					f.refused = append(f.refused, fmt.Sprintf("%s: replica %d asked by who hears after %s: %v", time.Now().Format(time.TimeOnly), i, late, err))
				}
			}
		}
	}
}

// verify is what an API server does at a handshake.
func (f *fleet) verify(leaf *x509.Certificate, bundle string) error {
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("expired at %s", leaf.NotAfter)
	}
	key := [2]string{string(leaf.Raw), bundle}
	err, known := f.verified[key]
	if !known {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(bundle))
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: time.Now()})
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
		f := &fleet{world: w, verified: map[[2]string]error{}}
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
		f.spend(time.Minute)
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
		if s := k.Status(); s.Problem != "" || s.CA == nil || !s.CA.InBundle || !s.CA.NotAfter.Equal(ca.NotAfter) {
			t.Errorf("status %+v", s)
		}

		// What a replica cannot know, while the API server is away, changes nothing.
		w.away.Store(true)
		time.Sleep(time.Minute)
		if s := k.Status(); s.Problem != "" || !strings.Contains(s.Trouble, "reading webhook configuration") {
			t.Errorf("while the API server is away: status %+v", s)
		}
		w.away.Store(false)
		time.Sleep(5 * time.Second)
		if s := k.Status(); s.Problem != "" || s.Trouble != "" {
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
			w.client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				return w.away.Load(), nil, apierrors.NewServiceUnavailable("the API server is away")
			})
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

// What RBAC lacks is said at the start, all of it.
func TestPermissionsAreSaid(t *testing.T) {
	w := newWorld(t)
	w.client.PrependReactor("create", "selfsubjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		switch what := r.Spec.ResourceAttributes; what.Verb {
		case "create":
			r.Status.Allowed = what.Name == "" && what.Namespace == "latchkey"
		case "list", "watch":
			r.Status.Allowed = what.Resource == "mutatingwebhookconfigurations"
		case "patch":
		default:
			r.Status.Allowed = true
		}
		return true, r, nil
	})
	k := newKeeper(newSelfManaged(w.options(), w.client, nil, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	const want = `the pod's ServiceAccount may not list secrets "ca", watch secrets "ca", patch mutatingwebhookconfigurations "latchkey-injector" (grant it by a Role in namespace latchkey`
	if err := k.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ended with %v, want %s", err, want)
	}
}
