package mutate

import (
	"fmt"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// minPort is the first port that a process without privileges can listen on in
// every cluster.
const minPort = 1024

const portRange = "1024 to 65535"

func setMetricsPort(s *Spec, v string) []error {
	port, ok := parsePort(v)
	if !ok {
		return one(fmt.Errorf("%q (a port from %s)", v, portRange))
	}
	s.Agent.Serve = ":" + port
	return nil
}

// setProxy takes a number for a port and all else for the name of a socket. A
// request has to bear X-Vault-Request, which Vault's own clients send.
func setProxy(s *Spec, v string) []error {
	local := &config.Local{Proxy: &config.Proxy{RequireHeader: true}}
	if _, err := strconv.Atoi(v); err == nil {
		port, ok := parsePort(v)
		if !ok {
			return one(fmt.Errorf("%q (a port from %s, or the name of a socket such as \"vault.sock\")", v, portRange))
		}
		local.Listen = "127.0.0.1:" + port
	} else {
		if err := config.CheckSocket(v); err != nil {
			return one(fmt.Errorf("%w, or a port from %s", err, portRange))
		}
		local.Socket = v
	}
	s.Agent.Local = local
	return nil
}

// parsePort reads a port as it is written in a pod: without sign or zeros.
func parsePort(v string) (port string, ok bool) {
	n, err := strconv.ParseUint(v, 10, 16)
	return v, err == nil && n >= minPort && strconv.FormatUint(n, 10) == v
}

// checkServe reports what the annotations say of ports and sockets that cannot
// be together.
func (s *Spec) checkServe(p *Problems) {
	a := &s.Agent
	if a.Lifecycle == config.Init {
		const ends = "lifecycle %s ends before the app starts (lifecycle %s or %s)"
		if a.Local != nil {
			p.add(Prefix+"proxy", ends, config.Init, config.Native, config.Sidecar)
		}
		if a.Serve != "" {
			p.add(Prefix+"metrics-port", ends, config.Init, config.Native, config.Sidecar)
		}
	}
	if a.Local == nil {
		return
	}
	if port := portOf(a.Local.Listen); port != 0 && port == portOf(a.Serve) {
		p.add(Prefix+"proxy", "%d is the port of %smetrics-port (another)", port, Prefix)
	}
	if a.Local.Socket != "" {
		if err := a.CheckSocketPlace(); err != nil {
			p.add(Prefix+"proxy", "%v", err)
		}
	}
}

// portOf is the port of an address, 0 where there is none.
func portOf(address string) int32 {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	return int32(n)
}

// checkPorts reports ports that the agent cannot have: those of the node, where
// whoever gets at it would be given the pod's token or its metrics, and those
// that a container states as its own.
func checkPorts(pod *corev1.Pod, spec *Spec, p *Problems) {
	ports := map[string]int32{"metrics-port": portOf(spec.Agent.Serve)}
	remedy := map[string]string{"metrics-port": "without it, or without spec.hostNetwork"}
	if l := spec.Agent.Local; l != nil {
		ports["proxy"] = portOf(l.Listen)
		remedy["proxy"] = "the name of a socket, or without spec.hostNetwork"
	}
	for row, port := range ports { // in any order: problems are sorted
		if port == 0 {
			continue
		}
		if pod.Spec.HostNetwork {
			p.add(Prefix+row, "the ports of a pod with hostNetwork are the node's (%s)", remedy[row])
		}
		eachContainer(pod, func(c *corev1.Container) {
			for _, declared := range c.Ports {
				if declared.ContainerPort == port && (declared.Protocol == "" || declared.Protocol == corev1.ProtocolTCP) {
					p.add(Prefix+row, "%d is a port of container %q (another)", port, c.Name)
				}
			}
		})
	}
}
