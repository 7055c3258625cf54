package agent

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// ops is what goroutines other than Run's see of the agent and ask of it.
type ops struct {
	meter *meter
	view  atomic.Pointer[view]
	// nudge wakes the loop; asked is since when that has no effect, in
	// nanoseconds since 1970, or 0.
	nudge chan struct{}
	asked atomic.Int64
	quit  context.CancelFunc
	// listen opens a TCP address.
	listen func(address string) (net.Listener, error)
	// dead receives a token that Vault calls invalid, as an app's request found.
	dead chan sealed.Value[string]
}

func newOps() *ops {
	o := &ops{meter: newMeter(), listen: listenTCP, nudge: make(chan struct{}, 1), dead: make(chan sealed.Value[string], 1)}
	o.view.Store(&view{})
	return o
}

// view is what the agent is like at one time. It is never changed.
type view struct {
	loggedIn     bool
	token        sealed.Value[string] // empty where there is none, or a dead one
	tokenTTL     time.Duration        // zero is a token that never ends
	tokenExpires time.Time
	transport    http.RoundTripper
	lastSuccess  time.Time
	staleSince   time.Time // zero where nothing is read; may be to come
	missing      int
}

func (v *view) hasToken() bool { return v.token.Reveal() != "" }

// share makes the next view. It is called at each turn of the loop.
func (a *Agent) share() {
	a.ops.asked.Store(0)
	v := &view{transport: a.transport}
	if s := a.session; s != nil {
		v.loggedIn, v.tokenTTL, v.tokenExpires = true, s.TTL, s.Expires
		if s.dead {
			v.tokenTTL, v.tokenExpires = time.Nanosecond, time.Time{}
		} else {
			v.token = s.token
		}
	}
	for _, e := range a.entries {
		if e.succeeded.After(v.lastSuccess) {
			v.lastSuccess = e.succeeded
		}
		if e.missing {
			v.missing++
		}
		since := e.wanted
		if since.IsZero() {
			since = a.began
		}
		if v.staleSince.IsZero() || since.Before(v.staleSince) {
			v.staleSince = since
		}
	}
	a.ops.view.Store(v)
}

// serve listens where the configuration says, until ctx ends, stop is called, or
// an app asks the agent to quit, which ends the returned context as well. That
// nothing can be listened on, since a container of the pod may hold the port, is
// told and tried again: files do not wait for it.
func (a *Agent) serve(ctx context.Context) (running context.Context, stop func()) {
	running, a.ops.quit = context.WithCancel(ctx)
	var servers sync.WaitGroup
	start := func(what, at string, listen func() (net.Listener, error), h http.Handler) {
		s := newServer(h, a.log)
		servers.Go(func() { s.run(running, a.log.With("at", at), what, listen) })
	}
	if at := a.config.Serve; at != "" && !a.once() {
		start("probes and metrics", at, func() (net.Listener, error) { return limit(a.ops.listen(at)) }, a.opsHandler())
	}
	if l := a.config.Local; l != nil && !a.once() {
		listen := func() (net.Listener, error) { return a.ops.listen(l.Listen) }
		if l.Socket != "" {
			listen = func() (net.Listener, error) { return a.volume.Listen(l.Socket, fs.FileMode(l.Mode)) }
		}
		start("the app's requests", cmp.Or(l.Listen, l.Socket), listen, a.localHandler())
	}
	return running, func() { a.ops.quit(); servers.Wait() }
}

// disown takes a token for dead that an app's request found to be.
func (a *Agent) disown(token sealed.Value[string]) (was bool) {
	if s := a.session; s != nil && !s.dead && s.token.Reveal() == token.Reveal() {
		s.dead, was = true, true
	}
	return was
}

func listenTCP(address string) (net.Listener, error) { return net.Listen("tcp", address) }

const (
	// shutdownTimeout bounds the wait for requests under way at the end.
	shutdownTimeout = 2 * time.Second
	listenAgain     = 5 * time.Second
)

type server struct{ http.Server }

func newServer(h http.Handler, log *slog.Logger) *server {
	return &server{http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
}

// run serves until ctx ends and then lets the requests under way finish.
func (s *server) run(ctx context.Context, log *slog.Logger, what string, listen func() (net.Listener, error)) {
	for told := ""; ; {
		l, err := listen()
		if err == nil {
			log.Info("listening for " + what)
			go func() { _ = s.Serve(l) }()
			break
		}
		if told != err.Error() {
			told = err.Error()
			log.Error(fmt.Sprintf("listening for %s: %v (it is tried again)", what, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenAgain):
		}
	}
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
}

// opsHandler serves probes and metrics.
func (a *Agent) opsHandler() http.Handler {
	r := mux.NewRouter()
	get := r.Methods(http.MethodGet, http.MethodHead).Subrouter()
	get.HandleFunc("/livez", a.livez)
	get.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ok, reason := Ready(a.volume); !ok {
			http.Error(w, reason, http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	get.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		a.ops.meter.write(w, a.ops.view.Load())
	})
	return r
}

// livez reports whether the loop turns. A turn may make several calls to a Vault
// that hangs, so that it is given the time of a few.
func (a *Agent) livez(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	if a.ops.asked.CompareAndSwap(0, now.UnixNano()) {
		select {
		case a.ops.nudge <- struct{}{}:
		default:
		}
	}
	if asked := a.ops.asked.Load(); asked != 0 {
		if since := now.Sub(time.Unix(0, asked)); since > 4*callTimeout(a.config.Vault) {
			http.Error(w, fmt.Sprintf("the agent has done nothing for %s", since.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// callTimeout bounds one call to Vault.
func callTimeout(v config.Vault) time.Duration {
	if v.Timeout == 0 {
		return requestTimeout
	}
	return time.Duration(v.Timeout)
}
