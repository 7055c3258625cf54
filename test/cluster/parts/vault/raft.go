package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/vault"
)

// openRaft makes config that of one of several nodes that keep the storage together, and elect who serves it. The first
// one is initialised; the others are told to join it by sys/storage/raft/join, and unsealed. A node's id is its address.
func openRaft(config *vault.CoreConfig, o options, logger hclog.Logger) error {
	at, err := net.ResolveTCPAddr("tcp", o.raft)
	if err != nil {
		return fmt.Errorf("reading -raft: %w", err)
	}
	dir := filepath.Join(o.data, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the raft directory: %w", err)
	}
	store, err := raft.NewRaftBackend(map[string]string{
		"path":    dir,
		"node_id": at.String(),
		// Elections within a second or two, which suits a loopback and not a network.
		"performance_multiplier": "1",
	}, logger.Named("storage.raft"))
	if err != nil {
		return fmt.Errorf("opening the raft storage: %w", err)
	}
	config.Physical, config.HAPhysical = store, store.(physical.HABackend)
	config.StorageType = "raft"
	config.ClusterAddr = "https://" + at.String()
	return nil
}

// joinCluster lets the other nodes of raft reach core.
func joinCluster(core *vault.Core, address string, handler http.Handler) error {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return fmt.Errorf("reading -raft: %w", err)
	}
	core.SetClusterListenerAddrs([]*net.TCPAddr{at})
	core.SetClusterHandler(handler)
	return nil
}

// redirecting makes a standby answer 307 to everything, as it does where the nodes cannot reach each other or the
// operator has turned forwarding off, instead of asking the active node itself.
func redirecting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(vaulthttp.NoRequestForwardingHeaderName, "true")
		next.ServeHTTP(w, r)
	})
}
