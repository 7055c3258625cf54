// Package vaulttest gives a Go test a real Vault on loopback, a real
// PostgreSQL, and the agent's own binary as a process beside them.
//
//	v := vaulttest.Start(t, vaulttest.Options{})
//	v.Role("app", vaulttest.Read("kv/data/app"), nil)
//	v.Write("kv/data/app", map[string]any{"data": map[string]any{"password": v.Secret("s3cret-one")}})
//	a := v.Agent("app", config.File{Path: "app.env", Secret: "kv/app", Format: config.FormatEnv})
//	a.Start()
//	a.WaitFile("app.env", "password='s3cret-one'\n")
//
// Each Vault has an address, a storage and an audit log of its own, and starts
// in well under a second, so each test has one. It ends with the test, also
// where the test panics: the kernel kills what a dead parent has started.
//
// The identity of an agent is a ServiceAccount token that an API server in the
// test has made; it answers Vault's TokenReviews (see [APIServer]).
//
// When a test ends, nothing that its agents have printed, at level debug, may
// hold a secret that was registered with [Vault.Secret] (long values of the files
// that the test has read are), a Vault token, or a ServiceAccount token. When it has failed, the folder with all logs stays and
// is named, and the end of each log is shown.
package vaulttest
