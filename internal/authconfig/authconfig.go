// Package authconfig keeps Vault's side in step with the cluster: the auth mount,
// its config and reviewer, and the roles.
//
//	ConfigMaps ─▶ desired ─┐
//	Vault      ─▶ vault   ─┼─▶ plan ─▶ apply ─▶ Vault, through the reviewer for the config
//	record     ─▶ cluster ─┘             └────▶ record
//
// Load reads the configuration, and a Keeper does a round: it looks, plans and
// applies. Serve has it do so whenever there is a reason, on the one replica that
// holds the Lease; Plan and Apply do it once.
package authconfig
