package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// files reads the certificate from tls.crt and tls.key. It needs no API server.
//
// The files of a mounted Secret reach each replica at the kubelet's pace, and
// whoever made them extends the caBundle at the same time: cert-manager's
// cainjector does when the Secret changes, and keeps the CA before it in the
// bundle. So a certificate of another CA rests for Settle, and a replica that
// starts with one just made, which may be of another CA, is ready that late.
type files struct {
	dir     string
	log     *slog.Logger
	watcher atomic.Pointer[certwatcher.CertWatcher]
	problem atomic.Pointer[string]
	// settled says that API servers can have heard of the first CA; of tell alone.
	settled bool
}

// Files keeps the certificate in dir, as tls.crt and tls.key. They may come
// later than the process, and change; a pair that does not fit changes nothing.
func Files(dir string, log *slog.Logger) *Keeper {
	f := &files{dir: dir, log: log}
	f.problem.Store(new(string))
	return newKeeper(f, log)
}

func (f *files) run(ctx context.Context, wake func()) error {
	w, err := f.wait(ctx, wake)
	if err != nil {
		return err
	}
	w.RegisterCallback(func(tls.Certificate) { wake() })
	f.watcher.Store(w)
	wake()
	return w.Start(ctx)
}

// wait waits for the first good pair. The error is that of ctx.
func (f *files) wait(ctx context.Context, wake func()) (*certwatcher.CertWatcher, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		w, err := certwatcher.New(filepath.Join(f.dir, "tls.crt"), filepath.Join(f.dir, "tls.key"))
		if err == nil {
			return w, nil
		}
		problem := err.Error()
		if old := f.problem.Swap(&problem); *old != problem {
			f.log.Warn("waiting for certificate", "error", err)
			wake()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

func (f *files) newestCertificate() *tls.Certificate {
	w := f.watcher.Load()
	if w == nil {
		return nil
	}
	c, _ := w.GetCertificate(nil) // never an error
	return c
}

func (f *files) usableFrom(next, served *leaf) time.Time {
	if sameIssuer(next.Certificate, served.Certificate) {
		return next.seen
	}
	return next.seen.Add(Settle)
}

func (f *files) tell(now time.Time, served *leaf, to *Status) {
	to.Mode = "from files in " + f.dir
	if served == nil {
		to.Problem = *f.problem.Load()
		return
	}
	end := served.Leaf.NotBefore.Add(Settle)
	f.settled = f.settled || !now.Before(end)
	if !f.settled && to.Problem == "" {
		to.Problem = "giving API servers time to learn of the CA of a certificate that is new, until " + stamp(end)
	}
}
