package cluster

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

var ours = map[string]string{"app.kubernetes.io/managed-by": "latchkey-authconfig", "latchkey.dev/authconfig": "lk"}

func secret(name string, labels map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "lk", Name: name, Labels: labels, UID: "old"}, Type: corev1.SecretTypeOpaque}
}

func TestSecretIsMadeFoundAndReplaced(t *testing.T) {
	c, w := newWorld(t)
	first, err := c.Secret(t.Context(), "pair-a", true)
	if err != nil || first.Name != "pair-a" || first.UID == "" || first.Type != "Opaque" {
		t.Fatalf("got %+v, %v", first, err)
	}
	again, err := c.Secret(t.Context(), "pair-a", false)
	if err != nil || again.UID != first.UID {
		t.Errorf("not the same: %+v, %v", again, err)
	}
	fresh, err := c.Secret(t.Context(), "pair-a", true)
	if err != nil || fresh.UID == first.UID {
		t.Errorf("not a fresh one: %+v, %v", fresh, err)
	}
	if want := []string{"create secrets", "delete secrets", "create secrets"}; !slices.Equal(w.writes(), want) {
		t.Errorf("writes %q, want %q", w.writes(), want)
	}
	stored, err := w.CoreV1().Secrets("lk").Get(t.Context(), "pair-a", metav1.GetOptions{})
	if err != nil || len(stored.Data) > 0 || stored.Labels["app.kubernetes.io/managed-by"] != "latchkey-authconfig" || stored.Labels["latchkey.dev/authconfig"] != "lk" {
		t.Errorf("got %+v, %v", stored, err)
	}
}

func TestSecretOfSomebodyElseIsLeftAlone(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"no label":           nil,
		"another authconfig": {"app.kubernetes.io/managed-by": "latchkey-authconfig", "latchkey.dev/authconfig": "other"},
		"Helm":               {"app.kubernetes.io/managed-by": "Helm", "latchkey.dev/authconfig": "lk"},
	} {
		t.Run(name, func(t *testing.T) {
			c, w := newWorld(t, secret("pair-a", labels))
			for _, fresh := range []bool{true, false} {
				_, err := c.Secret(t.Context(), "pair-a", fresh)
				wantError(t, err, "Secret lk/pair-a was not made by this authconfig", "latchkey.dev/authconfig=lk", "rename or delete it")
			}
			wantError(t, c.DeleteSecret(t.Context(), Secret{Name: "pair-a", UID: "old"}), "Secret lk/pair-a was not made by this authconfig")
			if len(w.writes()) > 0 {
				t.Errorf("writes %q", w.writes())
			}
		})
	}
}

func TestDeleteSecret(t *testing.T) {
	c, w := newWorld(t, secret("pair-a", ours))
	if err := c.DeleteSecret(t.Context(), Secret{Name: "pair-a", UID: "older"}); err != nil {
		t.Error(err)
	}
	if len(w.writes()) > 0 {
		t.Errorf("another of the name is touched: %q", w.writes())
	}
	var uid string
	w.PrependReactor("delete", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if p := a.(clienttesting.DeleteAction).GetDeleteOptions().Preconditions; p != nil && p.UID != nil {
			uid = string(*p.UID)
		}
		return false, nil, nil
	})
	for range 2 { // the second finds none
		if err := c.DeleteSecret(t.Context(), Secret{Name: "pair-a", UID: "old"}); err != nil {
			t.Error(err)
		}
	}
	if uid != "old" || !slices.Equal(w.writes(), []string{"delete secrets"}) {
		t.Errorf("deleted %q, writes %q", uid, w.writes())
	}
}

func TestFindSecret(t *testing.T) {
	long := secret("long", nil)
	long.Type, long.Data = corev1.SecretTypeServiceAccountToken, map[string][]byte{"token": []byte("s3cr3t")}
	long.Annotations = map[string]string{"kubernetes.io/service-account.name": "latchkey-reviewer"}
	long.ResourceVersion = "7"
	opaque := secret("opaque", ours)
	opaque.Data = map[string][]byte{"token": []byte("not one")}
	dying := secret("dying", ours)
	dying.DeletionTimestamp, dying.Finalizers = &metav1.Time{}, []string{"example.com/hold"}
	c, w := newWorld(t, long, opaque, dying)

	got, token, err := c.FindSecret(t.Context(), "long")
	if err != nil || token.Reveal() != "s3cr3t" || *got != (Secret{Name: "long", UID: "old", Version: "7", Type: "kubernetes.io/service-account-token", Account: "latchkey-reviewer"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, token, err = c.FindSecret(t.Context(), "opaque")
	if err != nil || got == nil || got.Type != "Opaque" || token.Reveal() != "" {
		t.Errorf("got %+v with a token of %d bytes, %v", got, len(token.Reveal()), err)
	}
	for _, name := range []string{"dying", "none"} {
		if got, _, err = c.FindSecret(t.Context(), name); got != nil || err != nil {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	_, err = c.Secret(t.Context(), "dying", true)
	wantError(t, err, "Secret lk/dying", "being deleted", "example.com/hold")

	for verb, call := range map[string]func() error{
		"get":    func() error { _, _, err := c.FindSecret(t.Context(), "long"); return err },
		"create": func() error { _, err := c.Secret(t.Context(), "new", false); return err },
		"delete": func() error { return c.DeleteSecret(t.Context(), Secret{Name: "opaque", UID: "old"}) },
	} {
		w.forbidden = []string{verb + " secrets"}
		err := call()
		wantError(t, err, "a Role in namespace lk", "resources [secrets]", "verbs ["+verb+"]")
		if err != nil && verb != "create" && !strings.Contains(err.Error(), "resourceNames [") {
			t.Errorf("%s: which Secret? %v", verb, err)
		}
	}
	w.forbidden = nil
	w.react("get", "secrets", away)
	if _, _, err := c.FindSecret(t.Context(), "none"); err == nil {
		t.Error("an API server that fails has no Secret")
	}
}
