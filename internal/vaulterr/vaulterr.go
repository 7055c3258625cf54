// Package vaulterr says what Vault means by refusing a login, and who can
// remedy it. Agent and injector share it, so it depends on neither.
package vaulterr

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"unicode"
)

// Login is a login as far as its refusal can be about it. It holds no secret.
type Login struct {
	Method string // of package config
	Role   string
	// Namespace and ServiceAccount are whose ServiceAccount token was shown,
	// with methods kubernetes and jwt.
	Namespace, ServiceAccount string
	// Audience is that of the token, as a person would write it.
	Audience string
	// Settings are what a person calls what the login is configured by; empty are
	// the pod's and its connection's.
	Settings Settings
}

// Settings are names of settings.
type Settings struct{ Role, Audience, Mount string }

// advice is what one answer means. Its remedy may name what is in braces:
// {role}, {namespace}, {account}, {audience}, {method}.
type advice struct {
	said   string // a part of what Vault says
	act    bool   // someone must act; else it passes by itself
	remedy string
}

// Answers of the methods, the more special before the more general. Their texts
// are those of vault-plugin-auth-kubernetes (path_login.go), vault-plugin-auth-jwt
// (path_login.go, claims.go), hashicorp/cap (jwt/jwt.go), and Vault's own
// approle and cert (builtin/credential), older releases included.
var (
	ofKubernetes = []advice{
		{"invalid role name", true, "create the role {role} at this mount, or correct {roleSetting}"},
		{"could not load backend configuration", false, "the mount has no configuration yet: write config below it"},
		{"service account name not authorized", true, "add {account} to the role's bound_service_account_names"},
		{"namespace not authorized err=", true, "the mount's reviewer must be allowed to read namespaces"},
		{"namespace not authorized", true, "add {namespace} to the role's bound_service_account_namespaces"},
		{"(aud)", true, "the role's audience and {audienceSetting} must be the same"},
		{"token is expired", false, "the kubelet writes a new one; check the clocks"},
		{"(exp)", false, clocks}, {"(nbf)", false, clocks}, {"(iat)", false, clocks},
		{"(iss)", true, "correct the mount's issuer, or set its disable_iss_validation"},
		{"failed to get service account", true, "the mount's reviewer must be allowed to read ServiceAccounts"},
		{"alias metadata keys for only internal use", true, "remove the annotations that Vault names from the ServiceAccount"},
	}
	ofJWT = []advice{
		{"could not be found", true, "create the role {role} at this mount, or correct {roleSetting}"},
		{"could not load configuration", false, "the mount has no configuration yet: write config below it"},
		{"error configuring token validator", false, keysURL},
		{"oidc role_type", true, "make the role one of role_type jwt"},
		{"no audiences bound", true, "add {audience} to the role's bound_audiences"},
		{"(aud)", true, "the role's bound_audiences must have {audienceSetting}"},
		{"does not match any bound audience", true, "the role's bound_audiences must have {audienceSetting}"},
		{"token is expired", false, "the kubelet writes a new one; check the clocks"},
		{"(exp)", false, clocks}, {"(nbf)", false, clocks}, {"(iat)", false, clocks},
		{"(iss)", true, "the mount's bound_issuer must be the issuer of the cluster's tokens"},
		{"(sub)", true, "the role's bound_subject must be that of ServiceAccount {namespace}/{account}"},
		{"fetching keys", false, keysURL},
		{"signature", true, "the keys of the mount's configuration must be those of the cluster's API server"},
		{"signed with", true, "the mount's jwt_supported_algs must have the algorithm of the cluster's API server"},
		{"error validating claims", true, "correct the role's bound_claims"},
		{"not found in token", true, "correct the role's user_claim"},
	}
	ofAppRole = []advice{
		{"invalid role or secret ID", true, "a secret ID may have expired, been used up or been destroyed: put a new one into its file; if it is good, correct the role ID"},
		{"invalid secret_id", true, "put a new secret ID into its file"},
		{"missing secret_id", true, "the role demands a secret ID: give one, or set the role's bind_secret_id to false"},
		{"CIDR restrictions", true, "add the pods' addresses to the bound CIDRs that Vault names"},
	}
	ofCert = []advice{
		{"failed to verify client's certificate", true, "renew the client certificate, or correct the CA of the certificate role"},
		{"failed to match all constraints", true, matchCertificate},
		{"no chain matching all constraints", true, matchCertificate},
		{"no certificate was matched", true, matchCertificate},
		{"certificate mismatch", true, "the certificate role must have the certificate itself, or its CA"},
		{"invalid certificate or no client certificate", true, suppliedCertificate},
		{"client certificate must be supplied", true, suppliedCertificate},
		{"no client certificate found", true, suppliedCertificate},
		{"tls connection required", true, suppliedCertificate},
	}
	ofAny = []advice{
		{"Vault is sealed", false, "unseal it"},
		{"rate limit quota", false, "a rate limit quota of Vault"},
		{"no handler for route", true, noMount},
	}
)

const (
	clocks              = "check the clocks of Vault and the cluster"
	matchCertificate    = "a certificate role of this mount must trust the CA of the client certificate, and allow its names; where the connection has a role, that one"
	suppliedCertificate = "nothing between agent and Vault may end TLS, and Vault's listener must not have tls_disable_client_certs"
	keysURL             = "Vault cannot fetch the keys that the mount's configuration names; if it lasts, check its URL, its CA, and the way from Vault to it"
	noMount             = "enable the {method} auth method at this mount, or correct {mountSetting}"
)

// bare is what a 403 without a telling text may come from. On a login Vault
// says the same where the path is no auth method's.
var bare = map[string]advice{
	"kubernetes": {act: false, remedy: "Vault says this also when it cannot ask the API server; if it lasts, check that the mount exists and is of type kubernetes, its host, its CA, that its reviewer is bound to system:auth-delegator, and the role's bound CIDRs"},
	"jwt":        {act: true, remedy: "check that the mount exists and is of type jwt, and the role's bound CIDRs"},
	"approle":    {act: true, remedy: "check that the mount exists and is of type approle; after some wrong logins Vault says this for a while, whatever is shown"},
	"cert":       {act: true, remedy: "check that the mount exists and is of type cert, and the certificate role's bound CIDRs"},
}

// Advise says who can remedy a login that Vault refused with this status and
// this text: someone who must act, or nobody, since it passes by itself. The
// remedy may be empty. That Vault said nothing at all, and is the cause of
// nothing but a 404, is an empty text.
func (l Login) Advise(status int, said string) (act bool, remedy string) {
	methods := map[string][]advice{"kubernetes": ofKubernetes, "jwt": ofJWT, "approle": ofAppRole, "cert": ofCert}
	for _, table := range [][]advice{ofAny, methods[l.Method]} {
		for _, a := range table {
			if strings.Contains(said, a.said) {
				return a.act, l.fill(a.remedy)
			}
		}
	}
	switch status {
	case http.StatusForbidden:
		return bare[l.Method].act, bare[l.Method].remedy
	case http.StatusNotFound:
		return true, l.fill(noMount)
	}
	return status < 500 && status != http.StatusTooManyRequests && status != http.StatusPreconditionFailed && status != 472 && status != 473, ""
}

func (l Login) fill(remedy string) string {
	return strings.NewReplacer(
		"{role}", fmt.Sprintf("%q", l.Role),
		"{namespace}/{account}", l.Namespace+"/"+l.ServiceAccount,
		"{namespace}", fmt.Sprintf("%q", l.Namespace),
		"{account}", fmt.Sprintf("%q", l.ServiceAccount),
		"{audience}", fmt.Sprintf("%q", l.Audience),
		"{method}", l.Method,
		"{roleSetting}", cmp.Or(l.Settings.Role, "the pod's role"),
		"{audienceSetting}", cmp.Or(l.Settings.Audience, "the connection's audience"),
		"{mountSetting}", cmp.Or(l.Settings.Mount, "the connection's mount"),
	).Replace(remedy)
}

// OneLine leaves no line break, no control character and no invisible one.
func OneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
