// Package certs keeps the injector's serving certificate.
package certs

import (
	_ "github.com/cert-manager/cert-manager/pkg/server/tls"
	_ "github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	_ "k8s.io/client-go/kubernetes"
)
