package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// told is a log handler that passes on what is said.
type told chan string

func (told) Enabled(context.Context, slog.Level) bool { return true }
func (c told) Handle(_ context.Context, r slog.Record) error {
	c <- r.Message
	return nil
}
func (c told) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c told) WithGroup(string) slog.Handler      { return c }

func (c told) await(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case got := <-c:
			if got == want {
				return
			}
		case <-time.After(time.Minute):
			t.Fatalf("never said: %s", want)
		}
	}
}

// mount changes a directory as the kubelet does a mounted Secret: by one link.
type mount struct {
	t   *testing.T
	dir string
	n   int
}

func (m *mount) set(files map[string][]byte) {
	m.t.Helper()
	m.n++
	name := strings.Repeat("v", m.n)
	must := func(err error) {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(m.dir, name), 0o700))
	for file, data := range files {
		must(os.WriteFile(filepath.Join(m.dir, name, file), data, 0o600))
	}
	must(os.Symlink(name, filepath.Join(m.dir, "..tmp")))
	must(os.Rename(filepath.Join(m.dir, "..tmp"), filepath.Join(m.dir, "..data")))
	if m.n == 1 {
		for _, file := range []string{"tls.crt", "tls.key"} {
			must(os.Symlink(filepath.Join("..data", file), filepath.Join(m.dir, file)))
		}
		return
	}
	must(os.RemoveAll(filepath.Join(m.dir, name[1:])))
}

func pairOf(t *testing.T, c *tls.Certificate) map[string][]byte {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
}

// A Secret that appears late, changes, and holds nonsense for a while.
func TestFilesOnDisk(t *testing.T) {
	now := time.Now().Add(-time.Minute).Truncate(time.Second)
	ca := newCA(t, now, time.Hour)
	first, second, third := leafOf(t, ca, now, time.Hour), leafOf(t, ca, now, time.Hour), leafOf(t, ca, now, time.Hour)
	m := &mount{t: t, dir: t.TempDir()}
	said := make(told, 100)
	k := Files(m.dir, slog.New(said))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	serves := func(want *tls.Certificate) {
		t.Helper()
		said.await(t, "serving certificate")
		if got, err := k.GetCertificate(nil); err != nil || !got.Leaf.Equal(want.Leaf) {
			t.Errorf("serves %v, %v", got, err)
		}
	}

	said.await(t, "reading serving certificate")
	if _, err := k.GetCertificate(nil); err == nil || !strings.Contains(err.Error(), "no serving certificate yet: ") {
		t.Errorf("without files: %v", err)
	}
	m.set(pairOf(t, first))
	serves(first)
	// The key of one and the certificate of another are no pair.
	half := pairOf(t, second)
	half["tls.key"] = pairOf(t, third)["tls.key"]
	m.set(half)
	m.set(map[string][]byte{"tls.crt": nil, "tls.key": nil})
	m.set(pairOf(t, third))
	serves(third)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
