package mutate

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// tokenSeconds is the lifetime that is asked for the ServiceAccount token: the
// least that the API server grants. The kubelet replaces it in time.
const tokenSeconds = 600

// identityVolume holds what the agent alone may read: the ServiceAccount token
// that it logs in with, asked for the given lifetime, and what the connection
// needs beside it.
func identityVolume(_ *Connection, auth config.Auth, seconds int64) corev1.Volume {
	return corev1.Volume{
		Name: IdentityVolume,
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Audience:          auth.Audience,
					ExpirationSeconds: &seconds,
					Path:              "token",
				},
			}},
		}},
	}
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
