package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// world is a cluster that gives every object a UID, and that refuses what it is
// told to.
type world struct {
	*fake.Clientset
	made int
	// forbidden are "verb resource", as RBAC would refuse them.
	forbidden []string
}

func newWorld(t *testing.T, objects ...runtime.Object) (*Client, *world) {
	w := &world{Clientset: fake.NewClientset(objects...)}
	w.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "" {
			return false, nil, nil
		}
		o, err := meta.Accessor(a.(clienttesting.CreateAction).GetObject())
		if err != nil {
			t.Fatal(err)
		}
		w.made++
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", w.made)))
		return false, nil, nil
	})
	w.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		resource := a.GetResource().Resource
		if s := a.GetSubresource(); s != "" {
			resource += "/" + s
		}
		if !slices.Contains(w.forbidden, a.GetVerb()+" "+resource) {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(a.GetResource().GroupResource(), "",
			fmt.Errorf("User %q cannot %s resource %q in API group %q", "system:serviceaccount:lk:authconfig", a.GetVerb(), resource, a.GetResource().Group))
	})
	return &Client{Settings: Settings{Namespace: "lk"}, kube: w}, w
}

// react answers the next calls of a kind with an error.
func (w *world) react(verb, resource string, err error) {
	w.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

// writes are all calls that could have changed something, as "verb resource name".
func (w *world) writes() []string {
	var all []string
	for _, a := range w.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) && a.GetResource().Resource != "selfsubjectaccessreviews" {
			all = append(all, a.GetVerb()+" "+a.GetResource().Resource)
		}
	}
	return all
}

func configMap(namespace, name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
}

// wantError checks that an error says all of it.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

var (
	configMaps = schema.GroupResource{Resource: "configmaps"}
	away       = apierrors.NewServiceUnavailable("the API server is away")
)

func TestSources(t *testing.T) {
	there := configMap("a", "roles", map[string]string{"app": "{}"})
	there.BinaryData = map[string][]byte{"z": nil, "b": nil}
	c, w := newWorld(t, there)
	w.PrependReactor("get", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetNamespace() != "locked" {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(configMaps, "roles", errors.New(`User "x" cannot get resource "configmaps"`))
	})
	sources := []desired.Source{{Namespace: "a", Name: "roles", RolePrefix: "a-"}, {Namespace: "b", Name: "roles"}, {Namespace: "locked", Name: "roles"}}
	got, err := c.Sources(t.Context(), sources)
	if err != nil {
		t.Fatal(err)
	}
	if g := got[0]; g.Missing || g.RolePrefix != "a-" || g.Data["app"] != "{}" || !slices.Equal(g.Binary, []string{"b", "z"}) {
		t.Errorf("got %+v", g)
	}
	if g := got[1]; !g.Missing || g.Why != "" {
		t.Errorf("one that is not there: %+v", g)
	}
	if g := got[2]; !g.Missing {
		t.Errorf("one that may not be read: %+v", g)
	}
	wantError(t, errors.New(got[2].Why), "cannot be read: configmaps", "a Role in namespace locked",
		`apiGroups [""], resources [configmaps], resourceNames [roles], verbs [get]`)

	w.react("get", "configmaps", away)
	if _, err := c.Sources(t.Context(), sources); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("the API server is away, which says nothing of the sources: %v", err)
	}
}

func certificate(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCA(t *testing.T) {
	one, two := certificate(t), certificate(t)
	for name, tt := range map[string]struct {
		data map[string]string
		want string
		err  string
	}{
		"two certificates": {map[string]string{"ca.crt": one + two + "\n\n"}, one + two, ""},
		"no key":           {map[string]string{"other": one}, "", "key ca.crt: it holds no PEM certificate"},
		"not PEM":          {map[string]string{"ca.crt": "hello"}, "", "it holds no PEM certificate"},
		"a second that is none": {map[string]string{"ca.crt": one + "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"}, "",
			"PEM block 2 (CERTIFICATE) is no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newWorld(t, configMap("lk", "kube-root-ca.crt", tt.data))
			got, err := c.CA(t.Context())
			if tt.err != "" {
				wantError(t, err, "ConfigMap lk/kube-root-ca.crt", tt.err, "kubernetes.ca")
			} else if err != nil || got != tt.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	c, _ := newWorld(t)
	_, err := c.CA(t.Context())
	wantError(t, err, "reading ConfigMap lk/kube-root-ca.crt", "not found")
}

func TestForbiddenForAnotherReasonNamesNoRule(t *testing.T) {
	err := apierrors.NewForbidden(configMaps, "x", errors.New("exceeded quota: q"))
	if got := (rule{verb: "create", resource: "configmaps", namespace: "lk"}).missing(err); got != error(err) {
		t.Errorf("got %v", got)
	}
}
