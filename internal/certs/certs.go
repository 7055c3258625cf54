// Package certs keeps the injector's serving certificate: from files, which is
// also how cert-manager delivers it, or self-managed, signed by a CA of the
// injector's own.
//
// API servers trust the certificate by the caBundle of the webhook
// configuration, which reaches each of them, and the certificate each replica,
// at its own time. So that a change of CA loses no admission on the way, a
// certificate of another CA is only served once the bundle has been given time
// to arrive, and the bundle keeps the old CA while a certificate of it may be
// served somewhere.
package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Settle is how far the clock of an API server may be behind, and how long one
// takes to learn of a CA where all is well: they watch, as a rule with a delay
// of milliseconds. Until then what is new is not relied on.
const Settle = 10 * time.Second

// issuerPatience is how long a certificate of another CA rests while the one
// that is served is good: cert-manager's cainjector may be restarting (its lease
// lasts a minute), and API servers that have lost their watch try again after
// up to half a minute.
const issuerPatience = time.Minute

// stepEvery is how often the choice of certificate is looked at again when
// nothing calls for it.
const stepEvery = time.Second

// Status is what there is to say about the certificate.
type Status struct {
	// Mode says where the certificate comes from.
	Mode string
	// NotBefore and NotAfter are the life of the certificate that is served; zero
	// before there is one.
	NotBefore, NotAfter time.Time
	// Problem is why API servers would not trust this replica, empty if they do.
	Problem string
	// Trouble is what needs someone's attention although API servers trust this
	// replica, empty if nothing does.
	Trouble string
	// CA is the self-managed CA; nil in the other mode, and before it is known.
	CA *CA
}

// CA is a self-managed certificate authority.
type CA struct {
	NotAfter time.Time
	// InBundle says that the webhook configuration trusts it.
	InBundle bool
	// Kept is when this replica last saw the bundle as it has to be, and had the
	// right to keep it; the start before that.
	Kept time.Time
}

// Keeper chooses the certificate to serve.
type Keeper struct {
	origin origin
	log    *slog.Logger
	serves atomic.Pointer[leaf]
	status atomic.Pointer[Status]
	first  chan struct{} // closed when there is a certificate to serve
	// newest and settled are of step alone; settled says that API servers have
	// had the time to trust what is served.
	newest  *leaf
	settled bool
}

// origin is where certificates come from.
type origin interface {
	// run keeps the newest certificate up to date until ctx ends, and calls wake
	// when anything has changed.
	run(ctx context.Context, wake func()) error
	// newestCertificate is nil while there is none.
	newestCertificate() *tls.Certificate
	// trustedSince is when the CA of a leaf came into the bundle, as far as this
	// is known; ok is false if it is not there.
	trustedSince(l *leaf) (t time.Time, ok bool)
	// usableFrom is when next may replace a certificate that is still good; zero
	// if that is not known yet.
	usableFrom(next, served *leaf) time.Time
	// tell completes the status of what is served, which is nil before there is
	// anything.
	tell(now time.Time, served *leaf, to *Status)
}

// leaf is a serving certificate.
type leaf struct {
	*tls.Certificate
	// seen is when this process saw it first.
	seen time.Time
	// from is when it and all that vouch for it, as far as they are known, are
	// valid from.
	from time.Time
	// issuer is the CA in the bundle that signed it, where that is known.
	issuer *x509.Certificate
}

func newLeaf(c *tls.Certificate, seen time.Time) *leaf {
	l := &leaf{Certificate: c, seen: seen, from: c.Leaf.NotBefore}
	for _, der := range c.Certificate[1:] {
		if ca, err := x509.ParseCertificate(der); err == nil { // what is no certificate helps nobody to trust us
			l.from = later(l.from, ca.NotBefore)
		}
	}
	return l
}

func (l *leaf) goodAt(now time.Time) bool {
	return !now.Before(l.from) && now.Before(l.Leaf.NotAfter)
}

// after is when l may follow served: patience after it is valid and trusted,
// which is since, and before half of what served then has left is over. Clocks
// differ, and so do the times at which API servers learn of a CA.
func (l *leaf) after(served *leaf, since time.Time, patience time.Duration) time.Time {
	from := later(l.from, since)
	return from.Add(min(patience, served.Leaf.NotAfter.Sub(from)/2))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func newKeeper(o origin, log *slog.Logger) *Keeper {
	k := &Keeper{origin: o, log: log, first: make(chan struct{})}
	k.status.Store(&Status{Problem: "starting"})
	return k
}

// First is closed when there is a certificate to serve.
func (k *Keeper) First() <-chan struct{} { return k.first }

// Status is that of a moment ago.
func (k *Keeper) Status() Status { return *k.status.Load() }

// GetCertificate is for tls.Config.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l := k.serves.Load()
	if l == nil {
		return nil, fmt.Errorf("no serving certificate yet: %s", k.Status().Problem)
	}
	return l.Certificate, nil
}

// Run keeps the certificate until ctx ends. An error is final: what is served
// would run out one day.
func (k *Keeper) Run(ctx context.Context) error {
	woken, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- k.origin.run(ctx, func() {
			select {
			case woken <- struct{}{}:
			default: // it has been told already
			}
		})
	}()
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		k.step(time.Now())
		select {
		case <-woken:
		case <-tick.C:
		case err := <-ended:
			if err == nil || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("keeping serving certificate: %w", err)
		}
	}
}

// step looks at what there is, and serves the right one. The ticker that calls
// it compares the wall's time, which goes on while a machine is suspended.
func (k *Keeper) step(now time.Time) {
	if c := k.origin.newestCertificate(); c != nil && (k.newest == nil || k.newest.Certificate != c) {
		k.newest = newLeaf(c, now)
	}
	served := k.serves.Load()
	if next := k.newest; next != nil && next != served {
		var from time.Time
		if served != nil {
			from = k.origin.usableFrom(next, served)
		}
		if choose(now, served, next, from) == next {
			k.serves.Store(next)
			k.log.Info("serving certificate", "serial", next.Leaf.SerialNumber.Text(16), "issuer", next.Leaf.Issuer.String(),
				"notBefore", next.Leaf.NotBefore, "notAfter", next.Leaf.NotAfter)
			if served == nil {
				defer close(k.first)
			}
			served = next
		}
	}
	var s Status
	k.origin.tell(now, served, &s)
	if served != nil {
		s.NotBefore, s.NotAfter = served.Leaf.NotBefore, served.Leaf.NotAfter
		k.settle(now, served, &s)
	}
	switch old := k.Status(); {
	case served == nil || (old.Problem == "") == (s.Problem == ""):
	case s.Problem != "":
		k.log.Warn("API servers do not trust this replica", "problem", s.Problem)
	default:
		k.log.Info("API servers trust this replica", "mode", s.Mode)
	}
	k.status.Store(&s)
}

// settle makes a replica not ready whose certificate is not good, or the first
// one and so new that some API server may not trust it yet.
func (k *Keeper) settle(now time.Time, served *leaf, s *Status) {
	since, _ := k.origin.trustedSince(served)
	until := later(served.from, since).Add(Settle)
	switch {
	case !served.goodAt(now):
		k.settled = false
		s.Problem = fmt.Sprintf("the certificate and its CA are valid from %s to %s, and it is %s", stamp(served.from), stamp(served.Leaf.NotAfter), stamp(now))
	case s.Problem != "":
	case !k.settled && now.Before(until):
		s.Problem = "giving API servers time to learn of certificate and CA, until " + stamp(until)
	default:
		k.settled = true
	}
}

// choose says which certificate to serve: the next one as soon as it may be
// used, or at once if there is none or what is served has run out.
func choose(now time.Time, served, next *leaf, from time.Time) *leaf {
	if served == nil || !served.goodAt(now) {
		return next
	}
	if from.IsZero() || now.Before(from) || !next.goodAt(now) {
		return served
	}
	return next
}

// sameIssuer tells if who trusts a trusts b, as far as they show it: the CAs
// that come with them are the same, and the one above has the same name and key.
func sameIssuer(a, b *tls.Certificate) bool {
	if len(a.Certificate) != len(b.Certificate) {
		return false
	}
	for i := range a.Certificate[1:] {
		if !bytes.Equal(a.Certificate[i+1], b.Certificate[i+1]) {
			return false
		}
	}
	id := func(c *x509.Certificate) []byte { return c.AuthorityKeyId }
	return bytes.Equal(a.Leaf.RawIssuer, b.Leaf.RawIssuer) && len(id(a.Leaf)) > 0 && bytes.Equal(id(a.Leaf), id(b.Leaf))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
