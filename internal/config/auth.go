package config

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// The methods of Auth.Method.
const (
	// MethodKubernetes shows a ServiceAccount token, which Vault has the API
	// server review.
	MethodKubernetes = "kubernetes"
	// MethodJWT shows the same token, which Vault verifies by itself.
	MethodJWT = "jwt"
	// MethodAppRole shows a role ID and, unless the role does without, a secret
	// ID.
	MethodAppRole = "approle"
	// MethodCert shows Vault.ClientCert.
	MethodCert = "cert"
	// MethodToken is no login: somebody else keeps a Vault token in a file.
	MethodToken = "token"
)

// Methods are all of them.
var Methods = []string{MethodKubernetes, MethodJWT, MethodAppRole, MethodCert, MethodToken}

// Auth is one login to Vault. A field is set where the method has a use for it.
type Auth struct {
	// Method is one of the constants.
	Method string `json:"method"`
	// Mount of the method, with or without the leading "auth/". Method token has
	// none.
	Mount string `json:"mount,omitempty"`
	// Namespace of the login where it differs from Vault.Namespace.
	Namespace string `json:"namespace,omitempty"`
	// Role of methods kubernetes and jwt. With method cert it is the name of the
	// certificate role, or empty for any that fits.
	Role string `json:"role,omitempty"`
	// Audience that the ServiceAccount token was asked for. The agent only
	// names it in messages; empty is the API server's own.
	Audience string `json:"audience,omitempty"`
	// TokenPath is the file that holds the ServiceAccount token or, with method
	// token, the Vault token. It is read afresh for each login, since others
	// replace it.
	TokenPath string `json:"tokenPath,omitempty"`
	// RoleIDPath and SecretIDPath are the files that hold what method approle
	// shows. Without SecretIDPath the role's bind_secret_id has to be false.
	RoleIDPath   string `json:"roleIDPath,omitempty"`
	SecretIDPath string `json:"secretIDPath,omitempty"`
	// SecretIDWrappingPath, if it is set, says that SecretIDPath holds a
	// response-wrapping token for the secret ID, and which API path must have
	// made it, such as "auth/approle/role/shop/secret-id": one that was made
	// otherwise is refused, since somebody may have read what it wrapped.
	SecretIDWrappingPath string `json:"secretIDWrappingPath,omitempty"`
}

// UsesServiceAccount reports whether the method shows a ServiceAccount token.
func (a *Auth) UsesServiceAccount() bool {
	return a.Method == MethodKubernetes || a.Method == MethodJWT
}

// MountPath is the mount without the leading "auth/" and without slashes around.
func (a *Auth) MountPath() string {
	return strings.Trim(strings.TrimPrefix(strings.TrimLeft(a.Mount, "/"), "auth/"), "/")
}

// validateAuth reports what the method lacks, and what is set that is not its.
func (v *Vault) validateAuth() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault.auth."+field+": "+format, args...))
	}
	a := &v.Auth
	if !slices.Contains(Methods, a.Method) {
		bad("method", "%q (%s)", a.Method, strings.Join(Methods, ", "))
		return errs
	}
	// What is not of the method has no effect, whatever it is meant to have.
	foreign := func(field, value string, methods ...string) {
		if value != "" && !slices.Contains(methods, a.Method) {
			bad(field, "%q has no effect with method %s (%s)", value, a.Method, strings.Join(methods, ", "))
		}
	}
	foreign("mount", a.Mount, MethodKubernetes, MethodJWT, MethodAppRole, MethodCert)
	foreign("role", a.Role, MethodKubernetes, MethodJWT, MethodCert)
	foreign("audience", a.Audience, MethodKubernetes, MethodJWT)
	foreign("tokenPath", a.TokenPath, MethodKubernetes, MethodJWT, MethodToken)
	foreign("roleIDPath", a.RoleIDPath, MethodAppRole)
	foreign("secretIDPath", a.SecretIDPath, MethodAppRole)
	foreign("secretIDWrappingPath", a.SecretIDWrappingPath, MethodAppRole)

	if a.Method != MethodToken && a.MountPath() == "" {
		bad("mount", "%q (the path of the auth method, such as %q)", a.Mount, a.Method)
	}
	if a.UsesServiceAccount() && a.Role == "" {
		bad("role", "empty (the name of a role of the auth method)")
	}
	file := func(field, value string) {
		if !path.IsAbs(value) {
			bad(field, "%q (an absolute path)", value)
		}
	}
	switch a.Method {
	case MethodKubernetes, MethodJWT, MethodToken:
		file("tokenPath", a.TokenPath)
	case MethodAppRole:
		file("roleIDPath", a.RoleIDPath)
		if a.SecretIDPath != "" {
			file("secretIDPath", a.SecretIDPath)
		} else if a.SecretIDWrappingPath != "" {
			bad("secretIDWrappingPath", "%q stands without secretIDPath (the file with the wrapping token)", a.SecretIDWrappingPath)
		}
		if p := a.SecretIDWrappingPath; p != "" {
			if err := CheckWrappingPath(p); err != nil {
				bad("secretIDWrappingPath", "%w", err)
			}
		}
	case MethodCert:
		if v.ClientCert == "" {
			bad("method", "%q without clientCert and clientKey, which it shows (their paths)", a.Method)
		}
		if strings.HasPrefix(strings.ToLower(v.Address), "http:") {
			bad("method", "%q over plain HTTP, where no certificate is shown (an https address)", a.Method)
		}
	}
	return errs
}

// CheckWrappingPath says what is wrong with the API path that is to have made a
// wrapping token. Vault states such paths without slashes around them.
func CheckWrappingPath(p string) error {
	if strings.Trim(p, "/") != p || path.Clean("/"+p) != "/"+p || strings.ContainsAny(p, "?# ") {
		return fmt.Errorf("%q (the API path of the secret ID, such as \"auth/approle/role/shop/secret-id\")", p)
	}
	return nil
}
