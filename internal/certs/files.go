package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// readEvery is how often files are read again. A mounted Secret changes by links
// several levels up, which a look at the content sees most simply; and watches
// of files run out where many processes have some.
const readEvery = 2 * time.Second

// Pair is a certificate and its key as files, which may change.
type Pair struct {
	// Dir holds tls.crt and tls.key.
	Dir      string
	crt, key []byte
	current  atomic.Pointer[tls.Certificate]
}

// Read reads both files again, and changes nothing unless they fit together.
// One goroutine at a time may call it.
func (p *Pair) Read() error {
	crt, err := os.ReadFile(filepath.Join(p.Dir, "tls.crt"))
	if err != nil {
		return err // it names the file
	}
	key, err := os.ReadFile(filepath.Join(p.Dir, "tls.key"))
	if err != nil {
		return err
	}
	if bytes.Equal(crt, p.crt) && bytes.Equal(key, p.key) {
		return nil
	}
	c, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return fmt.Errorf("tls.crt and tls.key in %s: %w", p.Dir, err)
	}
	p.crt, p.key = crt, key
	p.current.Store(&c)
	return nil
}

// Certificate is the last good one, nil before there is one.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load() }

// files reads the certificate from tls.crt and tls.key. It needs no API server.
//
// The files of a mounted Secret reach each replica at the kubelet's pace, and
// whoever made them extends the caBundle at the same time: cert-manager's
// cainjector does when the Secret changes, and keeps the CA before it in the
// bundle. So a certificate of another CA rests for a while after it was seen,
// and a replica that starts with one just made is ready Settle later.
type files struct {
	pair    Pair
	log     *slog.Logger
	problem atomic.Pointer[string]
}

// Files keeps the certificate in dir, as tls.crt and tls.key. They may come
// later than the process, and change; a pair that does not fit changes nothing.
func Files(dir string, log *slog.Logger) *Keeper {
	f := &files{pair: Pair{Dir: dir}, log: log}
	unread := "it has not been read yet"
	f.problem.Store(&unread)
	return newKeeper(f, log)
}

func (f *files) run(ctx context.Context, wake func()) error {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		problem := ""
		err := f.pair.Read()
		if err != nil {
			problem = err.Error()
		}
		if old := f.problem.Swap(&problem); err != nil && *old != problem {
			f.log.Warn("reading serving certificate", "error", err)
		}
		wake()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *files) newestCertificate() *tls.Certificate { return f.pair.Certificate() }

// trustedSince knows nothing of the bundle: the CA is taken to be as old there
// as the certificate.
func (f *files) trustedSince(*leaf) (time.Time, bool) { return time.Time{}, true }

func (f *files) usableFrom(next, served *leaf) time.Time {
	if sameIssuer(next.Certificate, served.Certificate) {
		return next.after(served, time.Time{}, Settle)
	}
	return next.after(served, next.seen, issuerPatience)
}

func (f *files) tell(_ time.Time, served *leaf, to *Status) {
	to.Mode = "from files in " + f.pair.Dir
	if problem := *f.problem.Load(); served == nil {
		to.Problem = problem
	} else {
		to.Trouble = problem
	}
}
