// Package cluster runs a real Kubernetes in a box: etcd, API server, controller-manager, scheduler, kubelet, kube-proxy,
// containerd, cluster DNS, and a Vault in a pod, for the end-to-end suites and the demo.
//
// Everything lives in PID, mount and network namespaces of its own, in one control group, and below one folder, so that
// the machine is the same before and after, whatever happens in between. One process holds the namespaces; when
// it ends, all of the box ends.
//
// The program in cmd/cluster starts and stops the box. A suite runs through `cluster exec`, which puts it into the box's
// network, and calls [Connect].
package cluster
