package cluster

import (
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// patience bounds one call, where the caller's rest.Config does not.
const patience = 15 * time.Second

// Settings say who authconfig is.
type Settings struct {
	// Namespace is authconfig's own.
	Namespace string
}

// Client implements API. It may be used by several goroutines at once.
type Client struct {
	Settings
	kube   kubernetes.Interface
	config *rest.Config

	mu sync.Mutex
	// record is the ConfigMap as it was last read or written, nil where there was
	// none.
	record *corev1.ConfigMap
}

var _ API = (*Client)(nil)

// New makes a client. It calls nobody yet.
func New(config *rest.Config, s Settings) (*Client, error) {
	config = rest.CopyConfig(config)
	if config.Timeout == 0 {
		config.Timeout = patience
	}
	if config.QPS == 0 {
		// The default of 5 a second makes a page of ServiceAccounts take a minute.
		config.QPS, config.Burst = 50, 100
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making API client: %w", err)
	}
	return &Client{Settings: s, kube: kube, config: config}, nil
}

// What authconfig makes carries both labels. The instance's own name keeps two
// authconfigs from removing each other's objects. It is not
// app.kubernetes.io/instance, by which Argo CD prunes what it did not make.
const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "latchkey-authconfig"
	instanceLabel  = "latchkey.dev/authconfig"
)

func (c *Client) labels() map[string]string {
	return map[string]string{managedByLabel: managedBy, instanceLabel: c.Namespace}
}

func (c *Client) isOurs(o metav1.Object) bool {
	l := o.GetLabels()
	return l[managedByLabel] == managedBy && l[instanceLabel] == c.Namespace
}

// notOurs is the error about an object that would have to be ours.
func (c *Client) notOurs(what string) error {
	return fmt.Errorf("%s was not made by this authconfig (it lacks the labels %s=%s and %s=%s) and is left alone: rename or delete it",
		what, managedByLabel, managedBy, instanceLabel, c.Namespace)
}

// exactly deletes the very object that was looked at, not one of its name.
func exactly(uid types.UID) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
}

// rule is a right that authconfig needs, as RBAC has it.
type rule struct{ verb, group, resource, namespace, name string }

// missing adds to an error by which RBAC refuses a call what grants it. Others
// come back as they are: the API server also says "forbidden" of quotas and of
// namespaces that are being deleted.
func (r rule) missing(err error) error {
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot "+r.verb+" ") {
		return err
	}
	return r.lacking(err)
}

func (r rule) lacking(err error) error {
	by := "a ClusterRole"
	if r.namespace != "" {
		by = "a Role in namespace " + r.namespace
	}
	names := ""
	if r.name != "" {
		names = fmt.Sprintf(", resourceNames [%s]", r.name)
	}
	return fmt.Errorf("%w (grant authconfig's ServiceAccount, by %s: apiGroups [%q], resources [%s]%s, verbs [%s])",
		err, by, r.group, r.resource, names, r.verb)
}
