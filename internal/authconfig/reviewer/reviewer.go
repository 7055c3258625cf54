// Package reviewer keeps what Vault reviews ServiceAccount tokens with: the five
// choices, the token that two of them need, and its proof.
package reviewer

// The modes, by whose token Vault reviews a client's.
const (
	// Local is Vault's own ServiceAccount token: Vault runs in this cluster.
	Local = "local"
	// Client is the client's token itself, which then needs the API server's
	// audience and system:auth-delegator.
	Client = "client"
	// LongLived is the token of a Secret of type service-account-token.
	LongLived = "long-lived"
	// ShortLived is a token that authconfig requests, proves and replaces in time.
	ShortLived = "short-lived"
	// JWT reviews nothing: a mount of type jwt verifies signatures with the
	// cluster's keys, which authconfig keeps there.
	JWT = "jwt"
)

// Modes are all of them.
var Modes = []string{Local, Client, LongLived, ShortLived, JWT}
