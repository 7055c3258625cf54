package mutate

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// tokenSeconds is the lifetime that is asked for the ServiceAccount token: the
// least that the API server grants. The kubelet replaces it in time.
const tokenSeconds = 600

// identityVolume holds what the agent alone may read: the ServiceAccount token,
// asked for the given lifetime, where it logs in with that, and what else the
// connection needs. Each method has something in it, and its mount keeps an API
// token out of the agent whatever the method.
func identityVolume(conn *Connection, auth config.Auth, seconds int64) corev1.Volume {
	var sources []corev1.VolumeProjection
	if auth.UsesServiceAccount() {
		sources = append(sources, corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience:          auth.Audience,
			ExpirationSeconds: &seconds,
			Path:              path.Base(config.TokenPath),
		}})
	}
	for _, source := range []*corev1.VolumeProjection{conn.CASource, conn.ClientCertSource, conn.CredentialSource} {
		if source != nil {
			sources = append(sources, *source)
		}
	}
	return corev1.Volume{
		Name:         IdentityVolume,
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}},
	}
}

// The projections below are optional, so that an object that is missing is the
// agent's error, which says so, and not a pod that does not start. Their paths
// tell where they come from, so that the error does too, and cannot be taken
// for the cluster's own CA, which other pods have in this folder as ca.crt.

func configMapCA(name, key string) (source *corev1.VolumeProjection, file string) {
	at := path.Join("vault-ca/configmap", name, key)
	return &corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name},
		Items:                []corev1.KeyToPath{{Key: key, Path: at}},
		Optional:             optional(),
	}}, besideToken(at)
}

func secretCA(name, key string) (source *corev1.VolumeProjection, file string) {
	at := path.Join("vault-ca/secret", name, key)
	return &corev1.VolumeProjection{Secret: &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name},
		Items:                []corev1.KeyToPath{{Key: key, Path: at}},
		Optional:             optional(),
	}}, besideToken(at)
}

// trustBundleCA is one bundle, or those of a signer that the selector finds.
func trustBundleCA(name, signer string, selector *metav1.LabelSelector) (source *corev1.VolumeProjection, file string) {
	at := path.Join("vault-ca/clustertrustbundle", or(name, signer))
	projection := &corev1.ClusterTrustBundleProjection{LabelSelector: selector, Optional: optional(), Path: at}
	if name != "" {
		projection.Name = &name
	} else {
		projection.SignerName = &signer
	}
	return &corev1.VolumeProjection{ClusterTrustBundle: projection}, besideToken(at)
}

// clientCertProjection is a Secret of type kubernetes.io/tls.
func clientCertProjection(name string) (source *corev1.VolumeProjection, cert, key string) {
	certAt := path.Join("vault-client/secret", name, corev1.TLSCertKey)
	keyAt := path.Join("vault-client/secret", name, corev1.TLSPrivateKeyKey)
	return &corev1.VolumeProjection{Secret: &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name},
		Items:                []corev1.KeyToPath{{Key: corev1.TLSCertKey, Path: certAt}, {Key: corev1.TLSPrivateKeyKey, Path: keyAt}},
		Optional:             optional(),
	}}, besideToken(certAt), besideToken(keyAt)
}

// The keys of the Secrets that hold credentials for Vault.
const (
	roleIDKey   = "role-id"
	secretIDKey = "secret-id"
	tokenKey    = "token"
)

// appRoleProjection is a Secret with a role ID and, where it is bound to one, a
// secret ID, whose path is empty otherwise.
func appRoleProjection(name string, bound bool) (source *corev1.VolumeProjection, roleID, secretID string) {
	at := func(key string) string { return path.Join("vault-approle/secret", name, key) }
	items := []corev1.KeyToPath{{Key: roleIDKey, Path: at(roleIDKey)}}
	if bound {
		items = append(items, corev1.KeyToPath{Key: secretIDKey, Path: at(secretIDKey)})
		secretID = besideToken(at(secretIDKey))
	}
	return &corev1.VolumeProjection{Secret: &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: items, Optional: optional(),
	}}, besideToken(at(roleIDKey)), secretID
}

// tokenProjection is a Secret with a Vault token.
func tokenProjection(name string) (source *corev1.VolumeProjection, token string) {
	at := path.Join("vault-token/secret", name, tokenKey)
	return &corev1.VolumeProjection{Secret: &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name},
		Items:                []corev1.KeyToPath{{Key: tokenKey, Path: at}},
		Optional:             optional(),
	}}, besideToken(at)
}

// besideToken is where the agent sees a path of its identity volume.
func besideToken(at string) string { return path.Join(path.Dir(config.TokenPath), at) }

func optional() *bool {
	yes := true
	return &yes
}

// secretsVolume is what agent and apps share, in memory.
func secretsVolume() corev1.Volume {
	size := resource.MustParse(volumeSize)
	return corev1.Volume{
		Name: SecretsVolume,
		VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium:    corev1.StorageMediumMemory,
			SizeLimit: &size,
		}},
	}
}

// pullSecrets adds the operator's names for the agent's image where the pod
// lacks them. The API server has by then given a pod without any those of its
// ServiceAccount: its ServiceAccount admission comes before webhooks.
func (p *patcher) pullSecrets(names []corev1.LocalObjectReference) {
	for _, name := range names {
		if !slices.Contains(p.pod.Spec.ImagePullSecrets, name) {
			insert(p, "/spec/imagePullSecrets", &p.pod.Spec.ImagePullSecrets, len(p.pod.Spec.ImagePullSecrets), name)
		}
	}
}
