package mutate

import (
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/suggest"
)

type operatorAuth struct {
	Method    string `json:"method"`
	Mount     string `json:"mount"`
	Namespace string `json:"namespace"`
	Role      string `json:"role"`
	// Audience tells an empty value, which is the API server's own audience,
	// from none.
	Audience *string `json:"audience"`
	// AppRoleSecret has the keys role-id and secret-id, the latter unless
	// BindSecretID is false.
	AppRoleSecret        *operatorName `json:"appRoleSecret"`
	BindSecretID         *bool         `json:"bindSecretID"`
	SecretIDWrappingPath string        `json:"secretIDWrappingPath"`
	// TokenSecret has the key token.
	TokenSecret *operatorName `json:"tokenSecret"`
}

// compileAuth reads how agents log in. The way to the server has been read.
func (c *operatorConnection) compileAuth(p *Problems, at string, out *Connection) {
	a := &c.Auth
	auth := config.Auth{Method: or(a.Method, config.MethodKubernetes), Namespace: a.Namespace}
	defer func() { out.Vault.Auth = auth }()
	checkVaultNamespace(p, at+".namespace", a.Namespace)
	if !slices.Contains(config.Methods, auth.Method) {
		allowed := strings.Join(config.Methods, ", ")
		p.add(at+".method", "%q (%s)", auth.Method, or(suggest.DidYouMean(auth.Method, config.Methods), allowed))
		return
	}
	a.checkForeign(p, at, auth.Method)
	if auth.Method != config.MethodToken {
		auth.Mount = or(a.Mount, auth.Method)
		checkMount(p, at+".mount", auth.Mount, auth.Method)
	}
	if a.Role != "" {
		if _, err := expandRole(a.Role, Identity{"namespace", "account"}); err != nil {
			p.add(at+".role", "%v", err)
		}
	}
	switch auth.Method {
	case config.MethodKubernetes, config.MethodJWT:
		auth.Audience, auth.TokenPath = "vault", config.TokenPath
		if a.Audience != nil {
			auth.Audience = *a.Audience
			if err := checkAudience(auth.Audience); err != nil {
				p.add(at+".audience", "%v", err)
			}
		}
	case config.MethodAppRole:
		if a.AppRoleSecret == nil {
			p.add(at+".appRoleSecret", "missing ({name: of a Secret in each workload's namespace with the keys %s and %s})", roleIDKey, secretIDKey)
			return
		}
		checkName(p, at+".appRoleSecret.name", a.AppRoleSecret.Name, "a Secret")
		bound := a.BindSecretID == nil || *a.BindSecretID
		out.CredentialSource, auth.RoleIDPath, auth.SecretIDPath = appRoleProjection(a.AppRoleSecret.Name, bound)
		auth.SecretIDWrappingPath = a.SecretIDWrappingPath
		if w := a.SecretIDWrappingPath; w != "" && !bound {
			p.add(at+".secretIDWrappingPath", "%q has no effect beside bindSecretID: false (one of them)", w)
		} else if err := config.CheckWrappingPath(w); w != "" && err != nil {
			p.add(at+".secretIDWrappingPath", "%v", err)
		}
	case config.MethodCert:
		if c.ClientCertSecret == nil {
			p.add(at+".method", "%q shows the connection's client certificate, and there is none (clientCertSecret beside auth)", auth.Method)
		}
		if strings.HasPrefix(strings.ToLower(c.Address), "http:") {
			p.add(at+".method", "%q over plain HTTP, where no certificate is shown (an https address)", auth.Method)
		}
	case config.MethodToken:
		if a.TokenSecret == nil {
			p.add(at+".tokenSecret", "missing ({name: of a Secret in each workload's namespace with the key %s})", tokenKey)
			return
		}
		checkName(p, at+".tokenSecret.name", a.TokenSecret.Name, "a Secret")
		out.CredentialSource, auth.TokenPath = tokenProjection(a.TokenSecret.Name)
	}
}

// checkForeign reports what is set that the method has no use for.
func (a *operatorAuth) checkForeign(p *Problems, at, method string) {
	for _, f := range []struct {
		name    string
		set     bool
		methods []string
	}{
		{"mount", a.Mount != "", []string{config.MethodKubernetes, config.MethodJWT, config.MethodAppRole, config.MethodCert}},
		{"role", a.Role != "", []string{config.MethodKubernetes, config.MethodJWT, config.MethodCert}},
		{"audience", a.Audience != nil, []string{config.MethodKubernetes, config.MethodJWT}},
		{"appRoleSecret", a.AppRoleSecret != nil, []string{config.MethodAppRole}},
		{"bindSecretID", a.BindSecretID != nil, []string{config.MethodAppRole}},
		{"secretIDWrappingPath", a.SecretIDWrappingPath != "", []string{config.MethodAppRole}},
		{"tokenSecret", a.TokenSecret != nil, []string{config.MethodToken}},
	} {
		if f.set && !slices.Contains(f.methods, method) {
			p.add(at+"."+f.name, "has no effect with method %s (%s)", method, strings.Join(f.methods, ", "))
		}
	}
}

func checkMount(p *Problems, at, mount, example string) {
	m := strings.TrimPrefix(mount, "auth/")
	if strings.Trim(m, "/") == "" || path.Clean("/"+m) != "/"+strings.Trim(m, "/") || strings.ContainsAny(m, "?#") || strings.ContainsFunc(m, unicode.IsControl) {
		p.add(at, "%q (the path of the auth method, such as %q)", mount, example)
	}
}

// connectRole resolves the role of a pod, where the method has roles.
func (s *Spec) connectRole(id Identity, conn *Connection, p *Problems) {
	auth := &s.Agent.Vault.Auth
	roles := auth.UsesServiceAccount() || auth.Method == config.MethodCert
	switch {
	case s.role != "" && !roles:
		p.add(Prefix+"role", "%q has no effect with connection %q, whose method %s has no roles (without it)", s.role, s.connection, auth.Method)
	case s.role != "":
		auth.Role = s.role
	case conn.RoleTemplate != "" && roles:
		var err error
		if auth.Role, err = expandRole(conn.RoleTemplate, id); err != nil {
			p.add(Prefix+"role", "%v from the operator's template", err)
		}
	case auth.UsesServiceAccount():
		p.add(Prefix+"role", "missing (the name of a role at Vault's %q; connection %q has no template for one)", auth.Mount, s.connection)
	}
	if s.audience == nil {
		return
	}
	if !auth.UsesServiceAccount() {
		p.add(Prefix+"audience", "has no effect with connection %q, whose method %s shows no ServiceAccount token (without it)", s.connection, auth.Method)
		return
	}
	auth.Audience = *s.audience
}
