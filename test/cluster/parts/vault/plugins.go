package main

import (
	"maps"
	"slices"

	"github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// The plugins of this server: what a suite mounts by name. Vault adds system, identity, cubbyhole and token itself.
var (
	logicalBackends = map[string]logical.Factory{
		"database": database.Factory,
		"kv":       kv.Factory,
		"pki":      pki.Factory,
		"transit":  transit.Factory,
	}
	credentialBackends = map[string]logical.Factory{
		"approle":    approle.Factory,
		"cert":       cert.Factory,
		"jwt":        jwtauth.Factory,
		"kubernetes": kubeauth.Factory,
	}
	databasePlugins = map[string]func() (any, error){
		"postgresql-database-plugin": postgresql.New,
	}
)

// registry tells Vault's plugin catalog which plugins are compiled in.
type registry struct{}

func (registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	var factory logical.Factory
	switch kind {
	case consts.PluginTypeSecrets:
		factory = logicalBackends[name]
	case consts.PluginTypeCredential:
		factory = credentialBackends[name]
	case consts.PluginTypeDatabase:
		newPlugin, ok := databasePlugins[name]
		return newPlugin, ok
	}
	return func() (any, error) { return factory, nil }, factory != nil
}

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, ok := r.Get(name, kind)
	return ok
}

func (registry) Keys(kind consts.PluginType) []string {
	switch kind {
	case consts.PluginTypeSecrets:
		return slices.Sorted(maps.Keys(logicalBackends))
	case consts.PluginTypeCredential:
		return slices.Sorted(maps.Keys(credentialBackends))
	case consts.PluginTypeDatabase:
		return slices.Sorted(maps.Keys(databasePlugins))
	}
	return nil
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if !r.Contains(name, kind) {
		return consts.Unknown, false
	}
	return consts.Supported, true
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
