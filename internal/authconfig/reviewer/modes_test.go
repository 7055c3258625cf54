package reviewer

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
)

func TestEachModeLetsPodsLogIn(t *testing.T) {
	for _, mode := range Modes {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.inCluster = mode == Local
				if mode == LongLived {
					w.secrets["reviewer-token"] = cluster.Secret{Name: "reviewer-token", UID: "u", Version: "1",
						Type: "kubernetes.io/service-account-token", Account: "latchkey-reviewer"}
					w.stored["reviewer-token"] = w.newToken(account, "", "u", 1e6*time.Hour)
				}
				p := w.start(settings(mode), plan.Record{})
				p.must()
				if err := w.pod(p.r.Audience); err != nil {
					t.Errorf("a pod's login is refused: %v", err)
				}
				if got := w.jwt != ""; got != (mode == LongLived || mode == ShortLived) {
					t.Errorf("Vault holds a reviewer token: %t", got)
				}
				writes := w.writes
				for range 3 {
					p.must()
				}
				if w.writes != writes {
					t.Errorf("the config was written %d times more though nothing changed", w.writes-writes)
				}
			})
		})
	}
}

func TestTheCAFollowsTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		w.ca = block("CERTIFICATE", "two")
		if w.pod("vault") == nil {
			t.Fatal("Vault takes a CA that it does not have")
		}
		p.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestLongLived(t *testing.T) {
	const secretType = "kubernetes.io/service-account-token"
	for _, test := range []struct {
		name   string
		secret *cluster.Secret
		token  bool
		says   string
	}{
		{name: "no Secret", says: "needs Secret reviewer-token, and there is none: make one of type kubernetes.io/service-account-token"},
		{name: "another type", secret: &cluster.Secret{Type: "Opaque"}, token: true, says: "is of type Opaque and must be of kubernetes.io/service-account-token"},
		{name: "another account", secret: &cluster.Secret{Type: secretType, Account: "app"}, token: true, says: `is for ServiceAccount "app"`},
		{name: "no token", secret: &cluster.Secret{Type: secretType, Account: "latchkey-reviewer"}, says: "holds no token yet"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.secret != nil {
				test.secret.Name, test.secret.UID = "reviewer-token", "u"
				w.secrets["reviewer-token"] = *test.secret
			}
			if test.token {
				w.stored["reviewer-token"] = w.newToken(account, "", "u", time.Hour)
			}
			wantError(t, w.start(settings(LongLived), plan.Record{}).reconcile(), test.says, "nothing in Vault has changed")
			if w.writes != 0 {
				t.Error("the config is written")
			}
		})
	}
	t.Run("another token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			put := func(uid, version string) {
				w.secrets["reviewer-token"] = cluster.Secret{Name: "reviewer-token", UID: uid, Version: version, Type: secretType, Account: "latchkey-reviewer"}
				w.stored["reviewer-token"] = w.newToken(account, "", uid, 1e6*time.Hour)
			}
			put("u1", "1")
			p := w.start(settings(LongLived), plan.Record{})
			p.must()
			for i, uid := range []string{"u1", "u2"} {
				put(uid, fmt.Sprint(i+2))
				p.must()
				if w.jwt != w.stored["reviewer-token"] {
					t.Errorf("Vault has not the token of Secret %s, version %d", uid, i+2)
				}
			}
			// A new leader has nothing to mint, and nothing to do.
			writes := w.writes
			w.start(settings(LongLived), p.rec).must()
			if w.writes != writes {
				t.Error("a new leader writes the config though nothing changed")
			}
			// The one before can be written back.
			p.r.Host = "https://elsewhere.test"
			wantError(t, p.reconcile(), "the config before is back and works")
			if err := w.pod("vault"); err != nil {
				t.Error(err)
			}
			w.secrets["other"] = cluster.Secret{Name: "other", UID: "u3", Type: secretType, Account: "latchkey-reviewer"}
			w.stored["other"] = w.newToken(account, "", "u3", 1e6*time.Hour)
			other := settings(LongLived)
			other.Secret = "other"
			chosen := w.start(other, p.rec)
			chosen.must()
			if w.jwt != w.stored["other"] {
				t.Error("Vault has not the token of the Secret that is chosen now")
			}
			time.Sleep(time.Hour)
			chosen.must()
			if _, ok := w.secrets["reviewer-token"]; !ok {
				t.Error("a Secret of the operator's is deleted")
			}
			p.r.Host = goodHost
			delete(w.secrets, "reviewer-token")
			wantError(t, p.reconcile(), "there is none")
		})
	})
}

// Vault in another cluster has no token of its own, and what it had is not to be
// known again.
func TestLocalWhereVaultIsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		local := w.start(settings(Local), p.rec)
		wantError(t, local.reconcile(), "proving the config by a login", "its reviewer token cannot be read from Vault")
		if got := local.rec.Reviewer.Mode; got != ShortLived {
			t.Errorf("the record says that mode %q is proven", got)
		}
		wantError(t, local.reconcile(), "proving the config by a login")
		// Set back.
		back := w.start(settings(ShortLived), local.rec)
		back.must()
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
	})
}

func TestFromLocalToAHostThatDoesNotWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.inCluster = true
		p := w.start(settings(Local), plan.Record{})
		p.must()
		p.r.Host = "https://elsewhere.test"
		wantError(t, p.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil {
			t.Error(err)
		}
		s := settings(ShortLived)
		s.Host = "https://elsewhere.test"
		p = w.start(s, p.rec)
		wantError(t, p.reconcile(), "the config before is back and works")
		if err := w.pod("vault"); err != nil || w.jwt != "" {
			t.Errorf("a pod's login: %v; Vault holds a token: %t", err, w.jwt != "")
		}
		if live := w.live(); len(live) != 0 {
			t.Errorf("Secrets %v are left of a token that is not used", live)
		}
	})
}

func TestAnotherModeEndsTheShortLivedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		before := w.jwt
		w.inCluster = true
		p = w.start(settings(Local), p.rec)
		p.must()
		p.untilNext()
		p.must()
		if w.honours(before, "") {
			t.Error("the token of the mode before still works")
		}
		if next := p.r.Next(p.rec); !next.IsZero() {
			t.Errorf("there is something to do at %s", next)
		}
	})
}

// In another mode there may be no leave to delete the Secret: it is said once.
func TestASecretThatMayNotBeDeletedAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(settings(ShortLived), plan.Record{})
		p.must()
		w.inCluster = true
		p = w.start(settings(Local), p.rec)
		p.must()
		p.untilNext()
		w.fail = failing("DeleteSecret")
		wantError(t, p.reconcile(), "delete it by hand")
		p.must()
	})
}

func TestClientRolesThatCannotWork(t *testing.T) {
	role := func(audience, selector string) desired.Role {
		return desired.Role{Source: "vault-auth/roles", Key: "key", Fields: desired.Fields{
			"audience": audience, "bound_service_account_namespace_selector": selector}}
	}
	roles := desired.Roles{Roles: map[string]desired.Role{
		"good": role("", ""), "named": role(issuer, ""), "narrow": role("vault", ""), "selects": role("", `{"matchLabels":{"a":"b"}}`)}}
	w := newWorld(t)
	got, err := w.start(settings(Client), plan.Record{}).r.Screen(t.Context(), roles)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Roles) != 2 || got.Roles["good"].Fields == nil || got.Roles["named"].Fields == nil {
		t.Errorf("roles that are kept: %v", got.Roles)
	}
	if len(got.Problems) != 2 || got.Problems[0].Role != "narrow" || !strings.Contains(got.Problems[0].Text, `audience: "vault" is not the API server's own ("https://issuer.test")`) ||
		got.Problems[1].Role != "selects" || !strings.HasPrefix(got.Problems[1].Text, "bound_service_account_namespace_selector: ") {
		t.Errorf("problems: %v", got.Problems)
	}
	if !got.Untouched("narrow", "vault-auth/roles") {
		t.Error("the role would be deleted")
	}
	// Nobody is asked where no role needs it.
	w.fail = failing("Issuer")
	if got, err := w.start(settings(Client), plan.Record{}).r.Screen(t.Context(), desired.Roles{Roles: map[string]desired.Role{"good": role("", "")}}); err != nil || len(got.Roles) != 1 {
		t.Errorf("%v, %v", got.Roles, err)
	}
	for _, mode := range []string{Local, LongLived, ShortLived} {
		if got, err := w.start(settings(mode), plan.Record{}).r.Screen(t.Context(), roles); err != nil || !reflect.DeepEqual(got, roles) {
			t.Errorf("mode %s: %v, %v", mode, got, err)
		}
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	_, err := newWorld(t).start(Settings{Mode: JWT}, plan.Record{}).r.Target(t.Context(), plan.Record{})
	wantError(t, err, "reviewer mode jwt needs an audience")
	_, err = newWorld(t).start(Settings{Mode: "shortlived"}, plan.Record{}).r.Target(t.Context(), plan.Record{})
	wantError(t, err, `reviewer mode "shortlived" is unknown`, "local, client, long-lived, short-lived, jwt")
}
