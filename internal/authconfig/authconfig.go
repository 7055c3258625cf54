// Package authconfig keeps Vault's side in step with the cluster: the auth mount,
// its config and reviewer, and the roles.
//
//	ConfigMaps ─▶ desired ─┐
//	Vault      ─▶ vault   ─┼─▶ plan ─▶ apply ─▶ Vault, through the reviewer for the config
//	record     ─▶ cluster ─┘             └────▶ record
package authconfig
