package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	cmtls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// lookEvery is how often Secret and webhook configuration are read when
	// nothing calls for it, and soon when something is wrong.
	lookEvery = 10 * time.Second
	soon      = 2 * time.Second
	// apiPatience bounds one look.
	apiPatience = 10 * time.Second
	fieldOwner  = "latchkey-injector"
)

// SelfManaged says how to keep a CA and what it signs. Any number of replicas
// share it, without a leader.
type SelfManaged struct {
	// Config reaches the API server.
	Config *rest.Config
	// Namespace holds the Secret and the Service.
	Namespace, Secret, Service string
	// WebhookConfiguration has the caBundle to keep.
	WebhookConfiguration string
	// CADuration and LeafDuration are how long the CA and the certificates that
	// it signs are valid. Both are renewed when two thirds have passed.
	CADuration, LeafDuration time.Duration
}

// MinLeafDuration is the shortest life of a certificate: a change of CA has to
// settle within the last third of it.
const MinLeafDuration = 3 * Settle

func (o *SelfManaged) validate() error {
	if o.LeafDuration < MinLeafDuration {
		return fmt.Errorf("--leaf-duration is %s (at least %s)", o.LeafDuration, MinLeafDuration)
	}
	if o.CADuration < 2*o.LeafDuration {
		return fmt.Errorf("--ca-duration is %s (at least twice --leaf-duration, which is %s)", o.CADuration, o.LeafDuration)
	}
	return nil
}

// selfManaged is a CA in a Secret (cert-manager's library makes it, renews it
// and signs with it), and a caBundle that follows it.
type selfManaged struct {
	SelfManaged
	client kubernetes.Interface
	log    *slog.Logger
	source *cmtls.DynamicSource

	mu   sync.Mutex
	view view
	// problem is why the last look did not do all it should, empty if it did.
	problem string
	// lacks is what the API server does not allow, in words; empty if nothing.
	lacks string
	// kept is when all was well last, or the start.
	kept time.Time
}

// Managed keeps a CA and a certificate signed by it.
func Managed(o SelfManaged, log *slog.Logger) (*Keeper, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("making API client: %w", err)
	}
	return newKeeper(newSelfManaged(o, client, &authority.DynamicAuthority{
		SecretNamespace: o.Namespace,
		SecretName:      o.Secret,
		SecretLabels:    map[string]string{"app.kubernetes.io/name": "latchkey-injector"},
		RESTConfig:      o.Config,
		CommonName:      "latchkey-injector-ca",
		CADuration:      o.CADuration,
		LeafDuration:    o.LeafDuration,
	}, log), log), nil
}

func newSelfManaged(o SelfManaged, client kubernetes.Interface, a cmtls.Authority, log *slog.Logger) *selfManaged {
	host := o.Service + "." + o.Namespace + ".svc"
	return &selfManaged{
		SelfManaged: o, client: client, log: log, kept: time.Now(),
		source: &cmtls.DynamicSource{DNSNames: []string{host, host + ".cluster.local"}, Authority: a},
	}
}

func (s *selfManaged) newestCertificate() *tls.Certificate {
	c, err := s.source.GetCertificate(nil)
	if err != nil { // there is none yet
		return nil
	}
	return c
}

func (s *selfManaged) run(ctx context.Context, wake func()) error {
	if err := s.awaitPermission(ctx, wake); err != nil {
		return err // that of ctx
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// The library speaks of itself, and in much detail.
	quiet := logr.FromSlogHandler(s.log.With("component", "authority").Handler()).V(1)
	ended := make(chan error, 1)
	rotated := make(chan struct{}, 1)
	s.source.Authority.WatchRotation(rotated)
	go func() { ended <- s.source.Start(logr.NewContext(ctx, quiet)) }()

	changed := make(chan struct{}, 1)
	factory, err := s.watchConfiguration(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer stop() // before waiting for the informers' end

	for {
		if s.isLacking() {
			s.ask(ctx)
		}
		again := lookEvery
		if err := s.look(ctx); !s.report(ctx, err) {
			again = soon
		}
		wake()
		timer := time.NewTimer(again)
		select {
		case <-rotated:
		case <-changed:
		case <-timer.C:
		case err := <-ended:
			return err
		}
		timer.Stop()
	}
}

// watchConfiguration calls changed when the webhook configuration has changed.
// The watch only says when to look: the look reads what is there now.
func (s *selfManaged) watchConfiguration(changed func()) (informers.SharedInformerFactory, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", s.WebhookConfiguration).String()
	}))
	informer := factory.Admissionregistration().V1().MutatingWebhookConfigurations().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	})
	if err != nil {
		return nil, fmt.Errorf("watching webhook configuration: %w", err)
	}
	return factory, nil
}

// report notes how a look went, and says so when that is news.
func (s *selfManaged) report(ctx context.Context, err error) (ok bool) {
	if ctx.Err() != nil {
		return true
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	s.mu.Lock()
	old := s.problem
	if s.problem = problem; problem == "" && s.lacks == "" && s.view.ca != nil {
		s.kept = time.Now()
	}
	s.mu.Unlock()
	switch {
	case err != nil && problem != old:
		s.log.Warn("keeping CA bundle", "error", err)
	case err == nil && old != "":
		s.log.Info("CA bundle is kept again")
	}
	return err == nil
}

// issuerOf finds the CA that signed a leaf, among those of the view; nil if it
// is not there.
func (s *selfManaged) issuerOf(l *leaf) *x509.Certificate {
	if l.issuer == nil {
		for _, ca := range s.view.known() {
			if l.Leaf.CheckSignatureFrom(ca) == nil {
				l.issuer, l.from = ca, later(l.from, ca.NotBefore)
				break
			}
		}
	}
	return l.issuer
}

func (s *selfManaged) trustedSince(l *leaf) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sinceOf(l)
}

func (s *selfManaged) sinceOf(l *leaf) (time.Time, bool) {
	ca := s.issuerOf(l)
	if ca == nil {
		return time.Time{}, false
	}
	t, ok := s.view.since[string(ca.Raw)]
	return t, ok
}

func (s *selfManaged) usableFrom(next, served *leaf) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.sinceOf(next)
	if !ok {
		return time.Time{}
	}
	if _, ok := s.sinceOf(served); !ok {
		return since // what is served is trusted by none that has read the bundle
	}
	if next.issuer.Equal(served.issuer) {
		return next.after(served, since, Settle)
	}
	return next.after(served, since, issuerPatience)
}

// tell makes the replica not ready when it knows that API servers do not trust
// it. What it does not know, since the API server is away, changes nothing,
// unless another CA signs now: then the old one may have left the bundle.
func (s *selfManaged) tell(now time.Time, served *leaf, to *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to.Mode = fmt.Sprintf("signed by the CA in Secret %s/%s", s.Namespace, s.Secret)
	ca := s.view.ca
	if ca != nil {
		_, in := s.view.since[string(ca.Raw)]
		to.CA = &CA{NotAfter: ca.NotAfter, InBundle: in, Kept: s.kept}
	}
	words := slices.DeleteFunc([]string{s.lacks, s.problem}, func(w string) bool { return w == "" })
	to.Trouble = strings.Join(words, ": ")
	problem := ""
	if served == nil {
		problem = fmt.Sprintf("no CA in Secret %s/%s yet", s.Namespace, s.Secret)
	} else if _, ok := s.sinceOf(served); !ok {
		problem = fmt.Sprintf("webhook configuration %q does not trust the serving certificate yet", s.WebhookConfiguration)
	} else if ca != nil && !served.issuer.Equal(ca) && now.Sub(s.view.at) > s.LeafDuration {
		problem = fmt.Sprintf("webhook configuration %q may not trust the serving certificate any more: another CA signs now, and it was last read at %s",
			s.WebhookConfiguration, stamp(s.view.at))
	}
	if problem != "" {
		to.Problem, to.Trouble = strings.Join(append([]string{problem}, words...), ": "), ""
	}
}

var errNotInCluster = errors.New("this is no pod of a cluster")

// InCluster is the configuration of a client in a pod.
func InCluster() (*rest.Config, error) {
	c, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		err = errNotInCluster
	}
	if err != nil {
		return nil, fmt.Errorf("reaching the API server as the pod's ServiceAccount: %w", err)
	}
	return c, nil
}

// parseCA reads the CA of the Secret.
func parseCA(data []byte) (*x509.Certificate, error) {
	all := parseBundle(data)
	if len(all) == 0 {
		return nil, errors.New("tls.crt holds no certificate")
	}
	return all[0].cert, nil
}
