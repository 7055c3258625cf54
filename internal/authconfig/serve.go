package authconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"golang.org/x/time/rate"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
	"github.com/latchkey-dev/latchkey/internal/authconfig/vault"
)

const (
	// firstRetry and longestRetry bound the wait after a round that failed. If all
	// that failed are roles, it is more likely to last, and a round reads all the
	// others again: that may take longestRoleRetry.
	firstRetry, longestRetry, longestRoleRetry = time.Second, time.Minute, 5 * time.Minute
	// breath is between two rounds, whatever happens. Whoever may edit one ConfigMap
	// can cause one each time, which reads all roles from Vault: many in a row, more
	// than burst, come no faster than steady.
	breath, steady, burst = time.Second, 10 * time.Second, 30
	// tick is how often the clock is looked at: a timer stands still while a
	// machine sleeps. So often the cluster's keys are asked for, too.
	tick = time.Minute
	// syncPatience is how long the first round waits for the watches.
	syncPatience = 5 * time.Second
	// closeTime bounds the last call to Vault.
	closeTime = 2 * time.Second
)

// Options say what authconfig runs with.
type Options struct {
	Config *Config
	// Kube is how the API server is reached, and Namespace authconfig's own.
	Kube      *rest.Config
	Namespace string
	// Host is the API server's URL as Vault reaches it, where the configuration
	// does not say.
	Host string
	// OpsListen is the address of probes and metrics, host:port with an optional
	// host.
	OpsListen string
	Log       *slog.Logger
}

// parts are what serving and applying are made of.
type parts struct {
	keeper *Keeper
	vault  *vault.Client
	kube   kubernetes.Interface
}

// open makes the clients. It calls nobody.
func (o *Options) open(m *metrics, stays bool) (*parts, error) {
	v, err := vault.New(o.Config.Vault, o.Config.Mount.Path, o.Config.MountType(), o.Log)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	v.LoggedIn = m.loggedIn
	k, err := cluster.New(o.Kube, cluster.Settings{Namespace: o.Namespace})
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(o.Kube)
	if err != nil {
		return nil, fmt.Errorf("making API client: %w", err)
	}
	return &parts{NewKeeper(o.Config, o.Namespace, o.Host, stays, k, counted{v, m}), v, kube}, nil
}

func (p *parts) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	p.vault.Close(ctx)
}

// Serve keeps the mount, or waits to take over from the replica that does, until
// ctx ends.
func Serve(ctx context.Context, o Options) error {
	m := newMetrics()
	p, err := o.open(m, true)
	if err != nil {
		return err
	}
	meta, err := metadata.NewForConfig(o.Kube)
	if err != nil {
		return fmt.Errorf("making API client: %w", err)
	}
	listener, err := net.Listen("tcp", o.OpsListen)
	if err != nil {
		return fmt.Errorf("listening for probes and metrics: %w", err)
	}
	var state atomic.Pointer[string]
	is := func(s string) { state.Store(&s) }
	is("waits to take over")
	ops := &http.Server{Handler: opsHandler(m, &state), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- fmt.Errorf("serving probes and metrics: %w", ops.Serve(listener)) }()
	defer func() { _ = ops.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-failed:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	teller, stop := newTeller(p.kube.CoreV1(), o.Namespace, o.Log)
	defer stop()
	o.Log.Info("started", "namespace", o.Namespace, "vault", o.Config.Vault.Address, "opsListen", o.OpsListen)

	err = lead(ctx, p.kube, o.Namespace, o.Log, func(ctx context.Context) {
		defer p.close(ctx)
		go p.vault.Keep(ctx)
		m.leader.WithLabelValues().Set(1)
		is("keeps auth/" + vault.MountPath(o.Config.Mount.Path))
		l := &loop{keeper: p.keeper, log: o.Log, metrics: m, teller: teller, changes: make(chan change, 64), wall: wall}
		l.run(ctx, func(tell func(change)) {
			patience, done := context.WithTimeout(ctx, syncPatience)
			defer done()
			watch(ctx, meta, o.Config.watches(o.Namespace), o.Log, patience.Done(), tell)
		})
		m.leader.WithLabelValues().Set(0)
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil {
		o.Log.Info("stopped")
	}
	return err
}

// opsHandler serves probes and metrics. A replica that waits is as ready as the
// one that leads; what is wrong in Vault is no reason to restart either.
func opsHandler(m *metrics, state *atomic.Pointer[string]) http.Handler {
	r := mux.NewRouter()
	get := r.Methods(http.MethodGet, http.MethodHead).Subrouter()
	get.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	get.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ready:", *state.Load()) })
	get.Handle("/metrics", m.Handler())
	return r
}

// loop does a round whenever there is a reason to.
type loop struct {
	keeper  *Keeper
	log     *slog.Logger
	metrics *metrics
	teller  *teller
	changes chan change

	token plan.Reviewer          // the credential in Vault
	keys  map[string]string      // the cluster's, as seen last
	doubt atomic.Pointer[string] // why the token may be worthless though its Secret is there

	wall func() time.Time // without a monotonic part
}

func wall() time.Time { return time.Now().Round(0) }

// run does rounds until ctx ends. start starts what tells of changes.
func (l *loop) run(ctx context.Context, start func(tell func(change))) {
	l.keeper.begin(ctx)
	start(l.tell)
	retry := workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, longestRoleRetry)
	pace := rate.NewLimiter(rate.Every(steady), burst)
	for why := "the start"; ctx.Err() == nil; {
		l.log.Debug("looking at cluster and Vault", "reason", why)
		if why := l.doubt.Swap(nil); why != nil {
			l.keeper.reviewer.Doubt(*why)
		}
		began := time.Now()
		r := l.keeper.Round(ctx)
		took := time.Since(began)
		if ctx.Err() != nil && errors.Is(r.Err, ctx.Err()) {
			// Whoever leads next goes on. That is no failure.
			l.teller.ended(r)
			return
		}
		l.metrics.observe(r, took)
		l.teller.tell(r)
		if r.Look != nil {
			l.token = r.Record.Reviewer
			l.keys = served(r.Record.Reviewer.Keys)
		}
		l.log.Debug("looked at cluster and Vault", "steps", len(r.Results), "duration", took.String(), "next", r.Next)
		pause := time.Duration(l.keeper.config.Resync)
		// A role that Vault never takes makes nothing else wait longer.
		const roles, all = "roles", "all"
		switch {
		case r.Err == nil:
			retry.Forget(roles)
			retry.Forget(all)
		case r.onlyRolesFailed():
			retry.Forget(all)
			pause = min(pause, retry.When(roles))
		default:
			pause = min(pause, longestRetry, retry.When(all))
		}
		if !r.Next.IsZero() {
			pause = min(pause, max(0, r.Next.Sub(l.wall())))
		}
		why = l.wait(ctx, pause, max(breath, pace.Reserve().Delay()))
	}
}

// tell passes on a change.
func (l *loop) tell(c change) {
	if c.resource == serviceAccounts && c.gone {
		why := c.String() + ", and its tokens with it"
		l.doubt.Store(&why)
	}
	select {
	case l.changes <- c:
	default: // there is reason enough
	}
}

// matters reports whether a change is a reason to look.
func (l *loop) matters(c change) bool {
	if c.resource != secrets || l.keeper.config.Reviewer.Mode != reviewer.ShortLived {
		return true
	}
	// The Secrets that come and go with each new token are no news.
	return c.gone && c.name == l.token.Secret && c.uid == l.token.SecretUID
}

// wait waits for a reason to look, or until it is time, and says why. The least
// that it waits is for what comes at once.
func (l *loop) wait(ctx context.Context, pause, least time.Duration) (why string) {
	// One clock stands still while a machine sleeps, and somebody may set the other
	// back.
	began, beganWall := time.Now(), l.wall()
	left := func() time.Duration { return pause - max(time.Since(began), l.wall().Sub(beganWall)) }
	rest := time.NewTimer(least)
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return ""
	case <-rest.C:
	}
	for {
		timer := time.NewTimer(max(0, min(left(), tick)))
		select {
		case <-ctx.Done():
		case c := <-l.changes:
			why = l.take(c)
		case <-timer.C:
			if left() <= 0 {
				why = "it is time"
			} else if l.newKeys(ctx) {
				why = "the cluster's keys changed"
			}
		}
		timer.Stop()
		if why != "" || ctx.Err() != nil {
			return why
		}
	}
}

// take takes a change, and all that came with it, and says which is a reason to
// look; empty is none.
func (l *loop) take(c change) (why string) {
	for {
		if why == "" && l.matters(c) {
			why = c.String()
		}
		select {
		case c = <-l.changes:
		default:
			return why
		}
	}
}

// newKeys reports whether the cluster serves other keys than before, in the mode
// that writes them to Vault. Nothing tells of that.
func (l *loop) newKeys(ctx context.Context) bool {
	if l.keeper.config.Reviewer.Mode != reviewer.JWT {
		return false
	}
	keys, err := l.keeper.cluster.Keys(ctx)
	if err != nil {
		l.log.Debug("reading the cluster's keys", "error", err)
		return false
	}
	changed := len(l.keys) > 0 && !maps.Equal(keys, l.keys)
	l.keys = keys
	return changed
}

// served are the keys that the cluster served when they were noted.
func served(noted map[string]plan.Key) map[string]string {
	keys := map[string]string{}
	for id, k := range noted {
		if k.Gone.IsZero() {
			keys[id] = k.PEM
		}
	}
	return keys
}
