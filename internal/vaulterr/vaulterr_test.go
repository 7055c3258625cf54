package vaulterr

import (
	"strings"
	"testing"
)

// Every answer of each method says whether someone must act, and what helps.
func TestAdvise(t *testing.T) {
	const (
		wait = false
		act  = true
	)
	for _, c := range []struct {
		method string
		status int
		said   string
		act    bool
		want   string
	}{
		{"kubernetes", 400, `invalid role name "web"`, act, `create the role "web" at this mount`},
		{"kubernetes", 500, "could not load backend configuration", wait, "the mount has no configuration yet: write config below it"},
		{"kubernetes", 403, "service account name not authorized", act, `add "checkout" to the role's bound_service_account_names`},
		{"kubernetes", 403, "namespace not authorized", act, `add "shop" to the role's bound_service_account_namespaces`},
		{"kubernetes", 403, "namespace not authorized err=failed to get namespace (code 403 status Forbidden)", act, "reviewer must be allowed to read namespaces"},
		{"kubernetes", 403, "invalid audience (aud) claim: audience claim does not match any expected audience", act, "the role's audience and the connection's audience must be the same"},
		{"kubernetes", 403, "invalid expiration time (exp) claim: token is expired", wait, "the kubelet writes a new one"},
		{"kubernetes", 403, "invalid not before (nbf) claim: token not yet valid", wait, "clocks"},
		{"kubernetes", 403, "invalid issuer (iss) claim", act, "disable_iss_validation"},
		{"kubernetes", 500, "failed to get service account (code 403 status Forbidden)", act, "read ServiceAccounts"},
		{"kubernetes", 400, "entity alias metadata keys for only internal use found from the client token's associated service account annotations: keys=[x]", act, "remove the annotations"},
		{"kubernetes", 403, "permission denied", wait, "system:auth-delegator"},
		{"kubernetes", 404, "", act, "enable the kubernetes auth method at this mount"},
		{"jwt", 400, `role "web" could not be found`, act, `create the role "web" at this mount`},
		{"jwt", 400, "could not load configuration", wait, "the mount has no configuration yet: write config below it"},
		{"jwt", 400, "error configuring token validator: Get \"https://issuer\": EOF", wait, "Vault cannot fetch the keys"},
		{"jwt", 400, "error validating token: error verifying token signature: fetching keys oidc: get keys failed", wait, "Vault cannot fetch the keys"},
		{"jwt", 400, "error validating token: error verifying token signature: no known key successfully validated the token signature", act, "those of the cluster's API server"},
		{"jwt", 400, "error validating token: invalid expiration time (exp) claim: token is expired", wait, "the kubelet writes a new one"},
		{"jwt", 400, "error validating token: invalid audience (aud) claim: audience claim does not match any expected audience", act, "bound_audiences must have the connection's audience"},
		{"jwt", 400, "audience claim found in JWT but no audiences bound to the role", act, `add "vault" to the role's bound_audiences`},
		{"jwt", 400, "error validating token: invalid issuer (iss) claim", act, "bound_issuer"},
		{"jwt", 400, "error validating token: invalid subject (sub) claim", act, "that of ServiceAccount shop/checkout"},
		{"jwt", 400, `error validating claims: claim "/kubernetes.io/namespace" does not match any associated bound claim values`, act, "bound_claims"},
		{"jwt", 400, `claim "email" not found in token`, act, "user_claim"},
		{"jwt", 400, "role with oidc role_type is not allowed", act, "role_type jwt"},
		{"jwt", 403, "permission denied", act, "check that the mount exists and is of type jwt"},
		{"approle", 400, "invalid role or secret ID", act, "put a new one into its file"},
		{"approle", 400, `invalid secret_id "[secret]"`, act, "put a new secret ID"},
		{"approle", 400, "missing secret_id", act, "bind_secret_id"},
		{"approle", 400, `source address "127.0.0.1" unauthorized by CIDR restrictions on the role: %!w(<nil>)`, act, "bound CIDRs"},
		{"approle", 403, "permission denied", act, "after some wrong logins"},
		{"cert", 400, "failed to match all constraints for this login certificate", act, "must trust the CA of the client certificate"},
		{"cert", 400, "invalid certificate or no client certificate supplied", act, "nothing between agent and Vault may end TLS"},
		{"cert", 400, "no chain matching all constraints could be found for this login certificate", act, "must trust the CA of the client certificate"},
		{"cert", 400, "client certificate must be supplied", act, "nothing between agent and Vault may end TLS"},
		{"cert", 500, "failed to verify client's certificate: x509: certificate has expired or is not yet valid", act, "renew the client certificate"},
		{"cert", 403, "permission denied", act, "check that the mount exists and is of type cert"},
		{"cert", 404, `no handler for route "auth/x/login". route entry not found.`, act, "enable the cert auth method"},
		{"jwt", 503, "Vault is sealed", wait, "unseal it"},
		{"jwt", 429, `request path "auth/jwt/login": rate limit quota exceeded`, wait, "quota"},
		{"approle", 500, "internal error", wait, ""},
		{"approle", 400, "whatever is new", act, ""},
	} {
		l := Login{Method: c.method, Role: "web", Namespace: "shop", ServiceAccount: "checkout", Audience: "vault"}
		gotAct, got := l.Advise(c.status, c.said)
		if gotAct != c.act || !strings.Contains(got, c.want) || c.want == "" && got != "" || strings.Contains(got, "{") {
			t.Errorf("%s: %s (%d): act %v, %q; want %v, %q", c.method, c.said, c.status, gotAct, got, c.act, c.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := OneLine("2 errors occurred:\n\t* permission\u202e denied\x1b[31m\n"); got != "2 errors occurred: * permission denied [31m" {
		t.Errorf("got %q", got)
	}
}
