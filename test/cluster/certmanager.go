package cluster

import (
	"errors"
	"fmt"
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

// StopCertManager ends it, and then the box is as it was without it. It is an error if it had died.
func (c *Cluster) StopCertManager() error {
	if c.box == nil {
		return errors.New("stopping cert-manager: the cluster is not the box")
	}
	if err := c.box.supervisor("Forget", certManager, new(struct{})); err != nil {
		return fmt.Errorf("stopping cert-manager: %w; the end of %s:\n%s", err, c.box.log(certManager), c.box.logTail(certManager))
	}
	return nil
}
