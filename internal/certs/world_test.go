package certs

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
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
