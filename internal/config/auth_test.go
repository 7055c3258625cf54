package config

import (
	"strings"
	"testing"
)

// auths are a complete login of each method.
func auths() map[string]Auth {
	return map[string]Auth{
		"kubernetes":        {Method: "kubernetes", Mount: "kubernetes", Role: "payments", Audience: "vault", TokenPath: "/sa/token"},
		"jwt":               {Method: "jwt", Mount: "auth/jwt", Role: "payments", TokenPath: "/sa/token", Namespace: "team"},
		"approle":           {Method: "approle", Mount: "approle", RoleIDPath: "/id/role-id", SecretIDPath: "/id/secret-id"},
		"approle unbound":   {Method: "approle", Mount: "approle", RoleIDPath: "/id/role-id"},
		"approle wrapped":   {Method: "approle", Mount: "approle", RoleIDPath: "/id/role-id", SecretIDPath: "/id/wrapped", SecretIDWrappingPath: "auth/approle/role/shop/secret-id"},
		"cert":              {Method: "cert", Mount: "cert"},
		"cert of one role":  {Method: "cert", Mount: "cert", Role: "web"},
		"token":             {Method: "token", TokenPath: "/vault/token"},
		"token of tenant x": {Method: "token", TokenPath: "/vault/token", Namespace: "x"},
	}
}

func TestMethods(t *testing.T) {
	for name, auth := range auths() {
		a := valid()
		a.Vault.Auth = auth
		if err := a.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		data, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := Decode(data); err != nil || b.Vault.Auth != auth {
			t.Errorf("%s: decoded as %+v: %v", name, b, err)
		}
	}
}

// What a method lacks is named, and so is what has no effect with it.
func TestMethodErrors(t *testing.T) {
	for _, c := range []struct {
		method string
		change func(*Vault)
		want   string
	}{
		{"kubernetes", func(v *Vault) { v.Auth.Role = "" }, `vault.auth.role: empty (the name of a role`},
		{"jwt", func(v *Vault) { v.Auth.Role = "" }, `vault.auth.role: empty (the name of a role`},
		{"jwt", func(v *Vault) { v.Auth.Mount = "" }, `vault.auth.mount: "" (the path of the auth method, such as "jwt")`},
		{"jwt", func(v *Vault) { v.Auth.TokenPath = "" }, `vault.auth.tokenPath: "" (an absolute path)`},
		{"kubernetes", func(v *Vault) { v.Auth.RoleIDPath = "/x" }, `vault.auth.roleIDPath: "/x" has no effect with method kubernetes (approle)`},
		{"approle", func(v *Vault) { v.Auth.RoleIDPath = "id" }, `vault.auth.roleIDPath: "id" (an absolute path)`},
		{"approle", func(v *Vault) { v.Auth.SecretIDPath = "id" }, `vault.auth.secretIDPath: "id" (an absolute path)`},
		{"approle", func(v *Vault) { v.Auth.Role = "shop" }, `vault.auth.role: "shop" has no effect with method approle (kubernetes, jwt, cert)`},
		{"approle", func(v *Vault) { v.Auth.Audience = "vault" }, `vault.auth.audience: "vault" has no effect with method approle`},
		{"approle", func(v *Vault) { v.Auth.TokenPath = "/x" }, `vault.auth.tokenPath: "/x" has no effect with method approle`},
		{"approle unbound", func(v *Vault) { v.Auth.SecretIDWrappingPath = "a/b" }, `vault.auth.secretIDWrappingPath: "a/b" stands without secretIDPath`},
		{"approle wrapped", func(v *Vault) { v.Auth.SecretIDWrappingPath = "/a/" }, `vault.auth.secretIDWrappingPath: "/a/" (the API path of the secret ID`},
		{"cert", func(v *Vault) { v.ClientCert, v.ClientKey = "", "" }, `vault.auth.method: "cert" without clientCert and clientKey`},
		{"cert", func(v *Vault) { v.Address = "http://vault:8200" }, `vault.auth.method: "cert" over plain HTTP`},
		{"token", func(v *Vault) { v.Auth.TokenPath = "" }, `vault.auth.tokenPath: "" (an absolute path)`},
		{"token", func(v *Vault) { v.Auth.Mount = "token" }, `vault.auth.mount: "token" has no effect with method token`},
	} {
		a := valid()
		a.Vault.Auth = auths()[c.method]
		c.change(&a.Vault)
		if err := a.Validate(); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", c.method, err, c.want)
		}
	}
}

func TestMountPath(t *testing.T) {
	for _, mount := range []string{"a/b", "/a/b/", "auth/a/b", "/auth/a/b/"} {
		if got := (&Auth{Mount: mount}).MountPath(); got != "a/b" {
			t.Errorf("%s: got %s", mount, got)
		}
	}
}
