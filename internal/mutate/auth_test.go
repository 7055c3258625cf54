package mutate

import (
	"strings"
	"testing"
)

// Each method says what it lacks, and what has no effect with it.
func TestAuthProblems(t *testing.T) {
	_, err := ParseConfig([]byte(`
connections:
  a: {address: "https://vault", auth: {method: approel, role: x}}
  b: {address: "https://vault", auth: {method: approle, role: x, tokenSecret: {name: a}}}
  c: {address: "https://vault", auth: {method: approle, appRoleSecret: {name: A}, bindSecretID: false, secretIDWrappingPath: a/b}}
  d: {address: "https://vault", auth: {method: approle, appRoleSecret: {}, audience: "", secretIDWrappingPath: /a/b}}
  e: {address: "HTTP://vault", auth: {method: cert}}
  f: {address: "https://vault", auth: {method: token, mount: token}}
  g: {address: "https://vault", auth: {method: ldap}}
  h: {address: "https://vault", auth: {method: jwt, mount: auth/, bindSecretID: true}}
`))
	const want = `connections.a.auth.method: "approel" (did you mean "approle"?)
connections.b.auth.appRoleSecret: missing ({name: of a Secret in each workload's namespace with the keys role-id and secret-id})
connections.b.auth.role: has no effect with method approle (kubernetes, jwt, cert)
connections.b.auth.tokenSecret: has no effect with method approle (token)
connections.c.auth.appRoleSecret.name: "A" (the name of a Secret: lower-case letters, digits, "-" and ".")
connections.c.auth.secretIDWrappingPath: "a/b" has no effect beside bindSecretID: false (one of them)
connections.d.auth.appRoleSecret.name: missing (the name of a Secret in each workload's namespace)
connections.d.auth.audience: has no effect with method approle (kubernetes, jwt)
connections.d.auth.secretIDWrappingPath: "/a/b" (the API path of the secret ID, such as "auth/approle/role/shop/secret-id")
connections.e.auth.method: "cert" shows the connection's client certificate, and there is none (clientCertSecret beside auth)
connections.e.auth.method: "cert" over plain HTTP, where no certificate is shown (an https address)
connections.f.auth.mount: has no effect with method token (kubernetes, jwt, approle, cert)
connections.f.auth.tokenSecret: missing ({name: of a Secret in each workload's namespace with the key token})
connections.g.auth.method: "ldap" (kubernetes, jwt, approle, cert, token)
connections.h.auth.bindSecretID: has no effect with method jwt (approle)
connections.h.auth.mount: "auth/" (the path of the auth method, such as "jwt")`
	if err == nil {
		t.Fatal("no error")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "connections.") {
			got = append(got, line)
		}
	}
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}
