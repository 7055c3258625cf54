package authconfig

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/latchkey-dev/latchkey/internal/authconfig/cluster"
	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
)

// watched is one object whose changes are a reason to look. Each is watched by
// its name, so that a Role can allow just that, and without its content.
type watched struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

var (
	configMaps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets         = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	serviceAccounts = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	bindings        = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
)

func (w watched) String() string {
	if w.namespace == "" {
		return w.resource.Resource + " " + w.name
	}
	return w.resource.Resource + " " + w.namespace + "/" + w.name
}

// watches are all objects that a configuration makes worth watching. The record
// is not among them: nobody but authconfig writes it.
func (c *Config) watches(namespace string) []watched {
	all := []watched{
		{configMaps, namespace, "kube-root-ca.crt"},
		{serviceAccounts, namespace, c.Reviewer.ServiceAccount},
	}
	for _, s := range c.Sources {
		all = append(all, watched{configMaps, s.Namespace, s.Name})
	}
	switch c.Reviewer.Mode {
	case reviewer.ShortLived:
		for _, name := range reviewer.Secrets {
			all = append(all, watched{secrets, namespace, name})
		}
	case reviewer.LongLived:
		all = append(all, watched{secrets, namespace, c.Reviewer.Secret})
	}
	if c.makesObjects() {
		all = append(all, watched{bindings, "", cluster.BindingName(namespace)})
	}
	return all
}

// makesObjects reports whether authconfig is asked to make anything in the cluster.
func (c *Config) makesObjects() bool { return c.Reviewer.Create || len(c.ServiceAccounts) > 0 }

// change is what happened to a watched object.
type change struct {
	watched
	gone bool
	uid  string
}

func (c change) String() string {
	if c.gone {
		return c.watched.String() + " was deleted"
	}
	return c.watched.String() + " changed"
}

// watch tells of changes until ctx ends. It returns when all objects have been
// seen as they are now, or when patience ends: an object that may not be watched
// is looked at on each resync.
func watch(ctx context.Context, client metadata.Interface, objects []watched, log *slog.Logger, patience <-chan struct{}, tell func(change)) {
	var seen []cache.InformerSynced
	var started atomic.Bool
	for _, w := range objects {
		informer := metadatainformer.NewFilteredMetadataInformer(client, w.resource, w.namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, w.name).String()
		}).Informer()
		once := sync.Once{}
		_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			log.Debug("watching is refused or was interrupted", "object", w.String(), "error", err)
			once.Do(func() {
				log.Warn("an object cannot be watched for now; it is looked at on each resync", "object", w.String(), "error", err)
			})
		})
		of := func(object any, gone bool) (c change, ok bool) {
			if last, isLast := object.(cache.DeletedFinalStateUnknown); isLast {
				object = last.Obj
			}
			m, ok := object.(metav1.Object)
			if !ok || m.GetName() != w.name {
				return c, false
			}
			return change{w, gone, string(m.GetUID())}, true
		}
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(object any, initially bool) {
				if c, ok := of(object, false); ok && (!initially || started.Load()) {
					tell(c)
				}
			},
			UpdateFunc: func(before, after any) {
				was, _ := of(before, false)
				is, ok := of(after, false)
				switch {
				case !ok:
				case was.uid != is.uid: // deleted and made again while nobody watched
					was.gone = true
					tell(was)
					tell(is)
				case before.(metav1.Object).GetResourceVersion() != after.(metav1.Object).GetResourceVersion():
					tell(is)
				}
			},
			DeleteFunc: func(object any) {
				if c, ok := of(object, true); ok {
					tell(c)
				}
			},
		})
		go informer.RunWithContext(ctx)
		seen = append(seen, informer.HasSynced)
	}
	cache.WaitForCacheSync(patience, seen...)
	started.Store(true)
}
