#!/bin/bash
# Shows that the box leaves nothing behind: compares the machine before and after `up`, a crash, and `down`.
#
#   leaves-nothing.sh CLUSTER     CLUSTER is the cluster program; run as root from a checkout
#
# Rounds 1 and 2 kill kubelet and containerd, round 3 the box's first process. Prints "no difference" and ends with 0, or prints
# the difference and ends with 1. Needs iproute2 and nft, and a machine on which little else happens meanwhile: what a service
# makes in /run or among the control groups is a difference too.
set -euo pipefail

cluster=$(realpath "${1:?usage: leaves-nothing.sh CLUSTER}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/latchkey
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Processes of ours or in a namespace that is not the machine's.
processes() {
	local p exe own namespaces
	own=$(readlink /proc/self/ns/{net,mnt,pid})
	for p in /proc/[0-9]*; do
		exe=$(readlink "$p"/ns/{net,mnt,pid} "$p/exe" 2>/dev/null) || continue # ended meanwhile, or a kernel thread
		namespaces=${exe%$'\n'*} exe=${exe##*$'\n'}
		if [[ $exe == "$cache"/* || $namespaces != "$own" ]] || grep -qs '/latchkey-' "$p/cgroup"; then
			echo "process $exe"
		fi
	done | sort
}

snapshot() ( # a subshell: what is missing is part of the picture
	set +e +o pipefail
	echo '# processes';         processes
	echo '# mounts';            cut -d' ' -f3- /proc/self/mountinfo | sort
	echo '# net namespaces';    readlink /proc/[0-9]*/ns/net | sort -u; ls /run/netns 2>&1
	echo '# links';             ip -o link | cut -d' ' -f2-
	echo '# addresses';         ip -o addr | sed 's/valid_lft.*//'
	echo '# routes';            ip route show table all; ip -6 route show table all | sed 's/expires.*//'; ip rule
	echo '# nft';               nft list ruleset
	echo '# cgroups';           find /sys/fs/cgroup -mindepth 1 -type d | sort
	echo '# cgroup control';    cat /sys/fs/cgroup/cgroup.subtree_control 2>&1
	echo '# sysctls';           sysctls
	echo '# folders'
	for dir in /run /var/lib/kubelet /var/lib/cni /var/lib/containerd /var/lib/etcd /var/log/pods /var/log/containers \
		/etc/cni /etc/containerd /etc/kubernetes /opt /usr/libexec "$HOME/.kube" "$HOME/.config/helm" "$HOME/.cache/helm"; do
		find "$dir" 2>&1 | sort
	done
	ls -d /* /etc/* /var/* /var/lib/* /var/log/*
	echo '# state';             ls -d "$cache"/box* 2>/dev/null | grep -v '\.lock$'
	true
)

# Those that Kubernetes is known to set, for the machine or for the network.
sysctls() {
	(cd /proc/sys && grep -s . vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_max* \
		net/ipv4/ip_forward net/ipv4/conf/*/{route_localnet,rp_filter} net/bridge/* net/netfilter/nf_conntrack_{max,tcp_*}) || true
}

# kill -9 of the box's processes of this name.
crash() {
	local p
	for p in /proc/[0-9]*; do
		if [[ $(cat "$p/comm" 2>/dev/null) == "$1" ]] && grep -qs '/latchkey-' "$p/cgroup"; then
			kill -9 "${p#/proc/}"
			echo "killed $1, process ${p#/proc/}"
			return
		fi
	done
	echo "no $1 runs" >&2
	return 1
}

if "$cluster" status >/dev/null 2>&1 || [[ -e $cache/box ]]; then
	echo "a box is there already; end it first: make cluster-down" >&2
	exit 2
fi
# A module that is loaded stays, and brings its settings: both sides of the comparison have it.
modprobe -q -a nf_tables nf_conntrack bridge veth overlay 2>/dev/null || true
snapshot >"$work/before"
for round in 1 2 3; do
	echo "== round $round: up, crash, down"
	"$cluster" up
	"$cluster" kubectl run left --image=busybox:box --image-pull-policy=Never --restart=Always -- -c 'sleep 3600'
	"$cluster" kubectl wait --for=condition=Ready --timeout=60s pod/left
	if [[ $round == 3 ]]; then
		crash cluster
	else
		crash kubelet
		crash containerd
	fi
	"$cluster" down
	snapshot >"$work/after"
	if ! diff "$work/before" "$work/after"; then
		echo "round $round left something behind" >&2
		exit 1
	fi
	echo "round $round: no difference"
done
echo "no difference"
