package reviewer

import (
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

// pubkeys are those of the config.
func (w *world) pubkeys() string {
	var texts []string
	for _, text := range w.config["jwt_validation_pubkeys"].([]string) {
		b, _ := pem.Decode([]byte(text))
		texts = append(texts, string(b.Bytes))
	}
	return strings.Join(texts, ",")
}

// Old and new keys are there side by side while the cluster's rotate.
func TestKeysFollowTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(JWT), plan.Record{})
		p.must()
		old := w.newToken("shop/app", "vault", "", time.Hour)
		w.keys = map[string]string{"k1": key1, "k2": key2}
		p.must()
		if got := w.pubkeys(); got != "1,2" {
			t.Fatalf("keys %q", got)
		}
		if err := w.pod("vault"); err != nil {
			t.Errorf("a login with the new key is refused: %v", err)
		}
		// One API server of several is behind, and later the first is ahead.
		for _, keys := range []map[string]string{{"k1": key1}, {"k2": key2}, {"k1": key1, "k2": key2}, {"k2": key2}} {
			w.keys = keys
			writes := w.writes
			p.must()
			if got := w.pubkeys(); got != "1,2" || w.writes != writes {
				t.Fatalf("keys %q, %d writes", got, w.writes-writes)
			}
			time.Sleep(10 * time.Minute)
		}
		w.keys["k1"] = key1 // what it would be to the fake's login
		if err := w.login(old, "vault"); err != nil {
			t.Errorf("a login with a token of the old key is refused: %v", err)
		}
		delete(w.keys, "k1")
		// Another process knows since when it is gone.
		p = w.start(settings(JWT), p.rec)
		p.must()
		p.untilNext()
		if got := w.pubkeys(); got != "1,2" {
			t.Errorf("keys %q before the grace is over", got)
		}
		p.must()
		if got := w.pubkeys(); got != "2" {
			t.Errorf("keys %q after the grace", got)
		}
		if next := p.r.Next(p.rec); !next.IsZero() {
			t.Errorf("there is something to do at %s", next)
		}
	})
}

func TestNoKeysAreNotWritten(t *testing.T) {
	w := newWorld(t)
	p := w.start(settings(JWT), plan.Record{})
	p.must()
	w.keys = nil
	wantError(t, p.reconcile(), "reading the public keys", "serves none")
	if got := w.pubkeys(); got != "1" {
		t.Errorf("keys %q", got)
	}
}

// A process that could not store its record still ends a key's grace.
func TestAGoneKeyIsForgottenWithoutARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.keys["k2"] = key2
		p := w.start(settings(JWT), plan.Record{})
		p.must()
		delete(w.keys, "k1")
		rec := p.rec.Clone()
		for range 7 {
			p.rec = rec.Clone()
			p.must()
			time.Sleep(10 * time.Minute)
		}
		if got := w.pubkeys(); got != "2" {
			t.Errorf("keys %q", got)
		}
	})
}

func TestDiscoveryWhereVaultCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.discovery = true
		s := settings(JWT)
		s.Discovery = true
		p := w.start(s, plan.Record{})
		p.must()
		if w.config["oidc_discovery_url"] != issuer || w.config["oidc_discovery_ca_pem"] != goodCA || w.pubkeys() != "" {
			t.Errorf("config %v", w.config)
		}
		w.keys = map[string]string{"k9": block("PUBLIC KEY", "9")}
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestDiscoveryWhereVaultCannot(t *testing.T) {
	for _, test := range []struct {
		name    string
		atLogin bool
		says    string
	}{
		{"refused at the write", false, "400 error checking oidc discovery URL"},
		{"seen at the login", true, "400 error fetching keys"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if w.discovery = test.atLogin; w.discovery {
					w.fail = func(call string) error {
						if call == "Probe" && w.config["oidc_discovery_url"] != "" {
							return errors.New("400 error fetching keys")
						}
						return nil
					}
				}
				s := settings(JWT)
				s.Discovery = true
				p := w.start(s, plan.Record{})
				p.must()
				if err := w.pod("vault"); err != nil || w.pubkeys() != "1" {
					t.Errorf("keys %q, a pod's login: %v", w.pubkeys(), err)
				}
				if p.rec.Reviewer.Keys["k1"].PEM != key1 {
					t.Errorf("the record has keys %v", p.rec.Reviewer.Keys)
				}
				writes := w.writes
				for range 3 {
					p.must()
					p = w.start(s, p.rec)
				}
				if w.writes != writes {
					t.Error("it is tried again and again")
				}
				target, err := p.r.Target(t.Context(), p.rec)
				if err != nil || len(target.Notes) != 1 || !strings.Contains(target.Notes[0], test.says) {
					t.Errorf("notes %q, %v", target.Notes, err)
				}
				// Turned off and on it is tried again.
				s.Discovery = false
				p = w.start(s, p.rec)
				p.must()
				s.Discovery, w.discovery, w.fail = true, true, nil
				p = w.start(s, p.rec)
				p.must()
				if w.config["oidc_discovery_url"] != issuer {
					t.Errorf("config %v", w.config)
				}
			})
		})
	}
}

// While Vault cannot write anything, nothing is concluded about discovery.
func TestDiscoveryWhileVaultIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.discovery = true
		s := settings(JWT)
		s.Discovery = true
		p := w.start(s, plan.Record{})
		w.fail = failing("WriteConfig")
		wantError(t, p.reconcile(), "writing the config", "there was no config to write back")
		w.fail = nil
		p.must()
		if w.config["oidc_discovery_url"] != issuer {
			t.Errorf("config %v", w.config)
		}
	})
}
