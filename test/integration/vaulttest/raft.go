package vaulttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Join starts another node of the cluster of v, which was started with
// [Options.Raft], and waits until it can take over. It shares all with v but its
// address.
func (v *Vault) Join() *Vault {
	v.t.Helper()
	host := loopback(v.t)
	n := &Vault{t: v.t, dir: filepath.Join(v.dir, host), host: host, Address: "http://" + host, Kubernetes: v.Kubernetes, unseal: v.unseal, raft: true}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		v.t.Fatal(err)
	}
	n.Root = n.client()
	n.Root.SetToken(v.Root.Token())
	v.t.Cleanup(n.Kill)
	n.launch()
	ctx := v.t.Context()
	// Autopilot gives a node its vote when it has been well for so long.
	v.Write("sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"})
	if _, err := n.Root.Sys().RaftJoinWithContext(ctx, &api.RaftJoinRequest{LeaderAPIAddr: v.Address}); err != nil {
		v.t.Fatalf("joining %s: %v", v.Address, err)
	}
	if _, err := n.Root.Sys().UnsealWithContext(ctx, n.unseal); err != nil {
		v.t.Fatalf("unsealing %s: %v", n.Address, err)
	}
	Wait(v.t, "the node's vote", func() error {
		state, err := v.Root.Sys().RaftAutopilotStateWithContext(ctx)
		switch {
		case err != nil:
			return err
		case state == nil || state.Servers[n.raftAddress()] == nil:
			return errors.New("autopilot does not know it yet")
		case state.Servers[n.raftAddress()].Status != "voter":
			return fmt.Errorf("it is a %s", state.Servers[n.raftAddress()].Status)
		}
		return nil
	})
	return n
}

// raftAddress is where other nodes reach it, and its id.
func (v *Vault) raftAddress() string { return strings.TrimSuffix(v.host, ":8200") + ":8201" }

// Active reports whether this node serves, rather than redirects to the one that does.
func (v *Vault) Active() bool {
	v.t.Helper()
	leader, err := v.Root.Sys().LeaderWithContext(v.t.Context())
	return err == nil && leader.IsSelf
}
