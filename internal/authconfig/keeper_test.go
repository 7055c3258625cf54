package authconfig

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
)

// Vault is told of the API server's configured URL, and else of the one that
// authconfig itself knows.
func TestHostOfTheAPIServer(t *testing.T) {
	for host, want := range map[string]string{"": "https://api.test", "https://outside.test:6443": "https://outside.test:6443"} {
		w := newWorld()
		c := configured(func(c *Config) { c.Kubernetes.Host = host })
		if r := NewKeeper(c, "latchkey", "https://api.test", true, w, w).Round(t.Context()); r.Err != nil {
			t.Fatal(r.Err)
		}
		if got := w.config["kubernetes_host"]; got != want {
			t.Errorf("with %q configured Vault's config has %v, want %s", host, got, want)
		}
	}
}

// Objects are made when that is asked for, and of roles none.
func TestWhatIsMadeInTheCluster(t *testing.T) {
	account := func(name string, delegator bool) cluster.Account {
		return cluster.Account{Namespace: "latchkey", Name: name, Delegator: delegator}
	}
	const token = "latchkey-reviewer-token"
	for name, c := range map[string]struct {
		change func(*Config)
		want   cluster.Objects
	}{
		"nothing": {nil, cluster.Objects{LongLived: token}},
		"a list": {func(c *Config) { c.ServiceAccounts = []ServiceAccount{{Namespace: "latchkey", Name: "app"}} },
			cluster.Objects{Accounts: []cluster.Account{account("app", false)}, LongLived: token}},
		"short-lived": {func(c *Config) { c.Reviewer.Create = true },
			cluster.Objects{Accounts: []cluster.Account{account("latchkey-reviewer", true)}, LongLived: token}},
		"long-lived": {func(c *Config) { c.Reviewer.Create, c.Reviewer.Mode = true, reviewer.LongLived },
			cluster.Objects{Accounts: []cluster.Account{account("latchkey-reviewer", true)}, LongLived: token, LongLivedFor: "latchkey-reviewer"}},
		"long-lived, made by others": {func(c *Config) { c.Reviewer.Mode = reviewer.LongLived }, cluster.Objects{LongLived: token}},
		"local": {func(c *Config) { c.Reviewer.Create, c.Reviewer.Mode = true, reviewer.Local },
			cluster.Objects{Accounts: []cluster.Account{account("latchkey-reviewer", false)}, LongLived: token}},
		"jwt": {func(c *Config) { c.Reviewer.Create, c.Reviewer.Mode = true, reviewer.JWT },
			cluster.Objects{Accounts: []cluster.Account{account("latchkey-reviewer", false)}, LongLived: token}},
		"client": {func(c *Config) {
			c.Reviewer.Create, c.Reviewer.Mode = true, reviewer.Client
			c.ServiceAccounts = []ServiceAccount{{Namespace: "latchkey", Name: "app", Delegator: true}}
		}, cluster.Objects{Accounts: []cluster.Account{account("latchkey-reviewer", true), account("app", true)}, LongLived: token}},
	} {
		w := newWorld()
		if got := NewKeeper(configured(c.change), "latchkey", "https://api.test", true, w, w).objects(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// That a Secret which a token was bound to could not be deleted is an error, and
// is tried again.
func TestALeftSecretIsTold(t *testing.T) {
	w := newWorld()
	k := NewKeeper(configured(nil), "latchkey", "https://api.test", true, w, w)
	if r := k.Round(t.Context()); r.Err != nil {
		t.Fatal(r.Err)
	}
	w.record.Reviewer.Retired = plan.RetiredSecret{Secret: "latchkey-reviewer-b", SecretUID: "old", Delete: time.Now().Add(-time.Second)}
	w.secrets["latchkey-reviewer-b"] = cluster.Secret{Name: "latchkey-reviewer-b", UID: "old"}
	w.fail = func(call string) error {
		if call == "DeleteSecret" {
			return errors.New("denied")
		}
		return nil
	}
	if r := k.Round(t.Context()); r.Err == nil || !strings.Contains(r.Err.Error(), "deleting Secret latchkey-reviewer-b") {
		t.Errorf("the error is %v", r.Err)
	}
	w.fail = nil
	if r := k.Round(t.Context()); r.Err != nil || w.record.Reviewer.Retired.Secret != "" {
		t.Errorf("the next round ends with %v, and the record %+v", r.Err, w.record.Reviewer)
	}
}
