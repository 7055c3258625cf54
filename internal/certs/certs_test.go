package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// leafOf is a serving certificate that a CA has signed.
func leafOf(t testing.TB, ca *testCA, from time.Time, life time.Duration) *tls.Certificate {
	t.Helper()
	key := newCA(t, from, life).key
	c := ca.sign(t, &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "injector"}, DNSNames: []string{"latchkey-injector.latchkey.svc"},
		NotBefore: from, NotAfter: from.Add(life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca.Certificate, key.Public())
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

func TestChoose(t *testing.T) {
	now := time.Now()
	ca := newCA(t, now.Add(-time.Hour), 100*time.Hour)
	make := func(from, to time.Duration) *leaf {
		return newLeaf(leafOf(t, ca, now.Add(from), to-from), now)
	}
	good, expired, early := make(-time.Hour, time.Hour), make(-time.Hour, -time.Minute), make(time.Minute, time.Hour)
	newer := make(-time.Minute, 2*time.Hour)
	for _, c := range []struct {
		name         string
		served, next *leaf
		from         time.Time
		want         *leaf
	}{
		{"the first", nil, newer, time.Time{}, newer},
		{"the first, expired: better than none", nil, expired, time.Time{}, expired},
		{"not trusted yet", good, newer, time.Time{}, good},
		{"trusted soon", good, newer, now.Add(time.Second), good},
		{"trusted", good, newer, now, newer},
		{"trusted, but expired", good, expired, now, good},
		{"trusted, but not valid yet", good, early, now, good},
		{"not trusted, but the old one has expired", expired, newer, time.Time{}, newer},
	} {
		if got := choose(now, c.served, c.next, c.from); got != c.want {
			t.Errorf("%s: not that", c.name)
		}
	}
}

// A new certificate rests while the one before it is good, and never for longer
// than half of what that has left.
func TestRest(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	ca := newCA(t, now.Add(-time.Hour), 100*time.Hour)
	made := newLeaf(leafOf(t, ca, now, time.Hour), now)
	ahead := *made.Certificate
	ahead.Certificate = append(ahead.Certificate[:1:1], newCA(t, now.Add(5*time.Minute), time.Hour).Raw)
	for _, c := range []struct {
		name  string
		next  *leaf
		left  time.Duration // of what is served
		since time.Duration // when its CA was trusted
		want  time.Duration
	}{
		{"much left", made, time.Hour, -time.Hour, time.Minute},
		{"trusted later", made, time.Hour, 3 * time.Second, time.Minute + 3*time.Second},
		{"little left", made, 20 * time.Second, -time.Hour, 10 * time.Second},
		{"trusted later, and little left", made, 20 * time.Second, 4 * time.Second, 12 * time.Second},
		{"an intermediate of the future", newLeaf(&ahead, now), time.Hour, 0, 6 * time.Minute},
	} {
		served := newLeaf(leafOf(t, ca, now.Add(-time.Hour), time.Hour+c.left), now)
		if got := c.next.after(served, now.Add(c.since), time.Minute).Sub(now); got != c.want {
			t.Errorf("%s: in %s, want %s", c.name, got, c.want)
		}
	}
}

func TestSameIssuer(t *testing.T) {
	now := time.Now()
	one, other := newCA(t, now, time.Hour), newCA(t, now, time.Hour)
	a, b, c := leafOf(t, one, now, time.Hour), leafOf(t, one, now, time.Hour), leafOf(t, other, now, time.Hour)
	through := *b
	through.Certificate = append(through.Certificate[:1:1], other.Raw)
	alone := &tls.Certificate{Certificate: [][]byte{one.Raw}, Leaf: one.Certificate}
	for _, x := range []struct {
		name string
		a, b *tls.Certificate
		want bool
	}{
		{"renewed", a, b, true},
		{"another CA of the same name", a, c, false},
		{"through another CA", a, &through, false},
		{"self-signed: nothing tells that it is trusted too", alone, alone, false},
	} {
		if got := sameIssuer(x.a, x.b); got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
	}
}

// Files follow each other as a kubelet brings them; each certificate that is
// served is one that API servers trust by then.
func TestFilesWaitForTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		f := &steadyFiles{}
		none := "no files"
		f.problem.Store(&none)
		k := newKeeper(f, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		serves := func(what string, want *tls.Certificate) {
			t.Helper()
			synctest.Wait()
			got, err := k.GetCertificate(nil)
			if (want == nil) != (err != nil) || want != nil && !got.Leaf.Equal(want.Leaf) {
				t.Errorf("%s, after %s: serves %v, %v", what, time.Since(start), got, err)
			}
		}
		ca, next := newCA(t, start, 24*time.Hour), newCA(t, start, 24*time.Hour)
		first, renewed := leafOf(t, ca, start, time.Hour), leafOf(t, ca, start.Add(14*time.Second), 2*time.Hour)
		moved, last := leafOf(t, next, start, 3*time.Hour), leafOf(t, ca, start, 4*time.Hour)

		serves("no file", nil)
		if p := k.Status().Problem; p == "" {
			t.Error("ready without a certificate")
		}
		f.set(first)
		time.Sleep(2 * time.Second)
		<-k.First()
		serves("the first", first)
		if s := k.Status(); !strings.Contains(s.Problem, "time to learn of certificate and CA") {
			t.Errorf("with a certificate made just now: status %+v", s)
		}
		time.Sleep(10 * time.Second)
		if s := k.Status(); s.Problem != "" || !s.NotAfter.Equal(first.Leaf.NotAfter) {
			t.Errorf("status %+v", s)
		}
		time.Sleep(4 * time.Second)
		f.set(renewed)
		time.Sleep(3 * time.Second)
		serves("just renewed by the same CA, too early for clocks that are behind", first)
		time.Sleep(5 * time.Second)
		serves("renewed by the same CA", renewed)
		f.set(moved)
		time.Sleep(59 * time.Second)
		serves("a new CA, on its way to API servers", renewed)
		time.Sleep(3 * time.Second)
		serves("a new CA", moved)
		// What has expired is not worth waiting for.
		time.Sleep(3 * time.Hour)
		if p := k.Status().Problem; !strings.Contains(p, "valid from") {
			t.Errorf("expired, and the problem is %q", p)
		}
		f.set(last)
		time.Sleep(2 * time.Second)
		serves("the old CA again, as the other has expired", last)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// steadyFiles are files without a disk, which fake time cannot wait for.
type steadyFiles struct {
	files
	now atomic.Pointer[tls.Certificate]
}

func (f *steadyFiles) set(c *tls.Certificate)              { f.now.Store(c) }
func (f *steadyFiles) newestCertificate() *tls.Certificate { return f.now.Load() }
func (f *steadyFiles) run(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}
