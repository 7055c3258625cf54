package cluster

import (
	"errors"
	"net"
)

const certManager = "cert-manager"

// StartCertManager starts cert-manager's controllers and CA injector in the box, unless they run. Its resources must be
// defined, and its program added (`cluster add cert-manager`).
func (c *Cluster) StartCertManager() error {
	if c.box == nil {
		return errors.New("starting cert-manager: the cluster is not the box")
	}
	return c.box.supervisor("Start", Command{Name: certManager, Path: c.box.bin(certManager), Args: []string{
		"-kubeconfig", c.box.Kubeconfig(), "-dns", net.JoinHostPort(DNSIP, "53"),
	}}, new(int))
}

// StopCertManager ends it, if it runs. The box is as it was without it.
func (c *Cluster) StopCertManager() error {
	if c.box == nil {
		return errors.New("stopping cert-manager: the cluster is not the box")
	}
	return c.box.supervisor("Forget", certManager, new(struct{}))
}
