package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/version"
)

const (
	// notifyTimeout bounds one try, notifyFor all tries for one set.
	notifyTimeout = 5 * time.Second
	notifyFor     = 15 * time.Minute
)

// notifier tells apps that their files have changed. One set at a time: a newer
// one supersedes it.
type notifier struct {
	ctx  context.Context
	list []config.Notification
	send func(context.Context, config.Notification) error
	log  *slog.Logger
	// told receives the set that everyone has been told of.
	told chan string

	set  string // that was announced last
	stop context.CancelFunc
}

func newNotifier(ctx context.Context, list []config.Notification, send func(context.Context, config.Notification) error, log *slog.Logger) *notifier {
	return &notifier{ctx: ctx, list: list, send: send, log: log, told: make(chan string), stop: func() {}}
}

// announce begins to tell of a set, unless that has begun.
func (n *notifier) announce(set string) {
	if n.set == set {
		return
	}
	n.stop()
	n.set = set
	ctx, stop := context.WithTimeout(n.ctx, notifyFor)
	n.stop = stop
	go func() {
		defer stop()
		n.run(ctx, set)
	}()
}

// run tries until everyone has been told, the time is up, or there is a newer
// set. Whoever has been told is not told again.
func (n *notifier) run(ctx context.Context, set string) {
	pending, said := n.list, make(map[string]bool)
	var pause backoff
	for {
		var failed []config.Notification
		for _, to := range pending {
			err := n.send(ctx, to)
			var partly partlySent
			if errors.As(err, &partly) {
				n.log.Warn(err.Error(), "notify", target(to))
				err = nil
			}
			switch {
			case ctx.Err() != nil:
				failed = append(failed, to)
			case err != nil:
				failed = append(failed, to)
				level := slog.LevelWarn
				if said[err.Error()] {
					level = slog.LevelDebug
				}
				said[err.Error()] = true
				n.log.Log(ctx, level, err.Error(), "notify", target(to))
			default:
				n.log.Info("told of the new files", "notify", target(to))
			}
		}
		if pending = failed; len(pending) == 0 {
			select {
			case n.told <- set:
			case <-ctx.Done():
			}
			return
		}
		select {
		case <-time.After(pause.next(true, 0)):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				n.log.Error(fmt.Sprintf("gave up telling of the new files after %s, until the next change or start", notifyFor), "notify", target(pending[0]))
			}
			return
		}
	}
}

// target names whom a notification is for.
func target(to config.Notification) string {
	if to.HTTP != nil {
		return to.HTTP.Target()
	}
	return to.Signal.Process
}

// send makes one try.
func send(ctx context.Context, to config.Notification) error {
	if to.HTTP != nil {
		ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
		defer cancel()
		return request(ctx, to.HTTP)
	}
	return signalAll(os.DirFS("/proc"), syscall.Kill, to.Signal)
}

// request sends a request to a port of this pod. Any status of 2xx is success;
// redirects are not followed.
func request(ctx context.Context, to *config.HTTPRequest) error {
	method := to.Method
	if method == "" {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, to.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("notifying %s: %s", to.Target(), cause(err))
	}
	r.Header.Set("User-Agent", "latchkey-agent/"+version.Version)
	resp, err := loopback.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("notifying %s: %s", to.Target(), cause(err))
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("notifying %s: answered %d (2xx)", to.Target(), resp.StatusCode)
	}
	if err != nil {
		return fmt.Errorf("notifying %s: reading the answer: %w", to.Target(), err)
	}
	return nil
}

// loopback carries requests that stay in the pod. It verifies no certificate, as
// the kubelet's probes do not: nothing secret is sent, and an app's certificate
// is seldom one for 127.0.0.1.
var loopback = &http.Transport{
	DialContext:       (&net.Dialer{Control: onlyLoopback}).DialContext,
	TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true},
	DisableKeepAlives: true,
}

// onlyLoopback refuses what a name such as localhost may have been made to mean.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("%s leaves the pod (a loopback address)", address)
	}
	return nil
}
