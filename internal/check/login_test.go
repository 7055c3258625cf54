package check

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// What is tried of the methods beside kubernetes, and what is not.
func TestLoginMethods(t *testing.T) {
	answers := answers{
		"GET /v1/sys/health": says(200, healthy),
		"PUT /v1/auth/clusters/blue/login": func(w http.ResponseWriter, r *http.Request) {
			var body struct{ Role, JWT string }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.JWT != jwt {
				t.Errorf("login with %q: %v", body.JWT, err)
			}
			says(400, `{"errors":["role \"web\" could not be found"]}`)(w, r)
		},
	}
	address := serve(t, answers, nil)
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(`connections:
  a: {address: "`+address+`", auth: {method: approle, appRoleSecret: {name: shop}}}
  b: {address: "`+address+`", auth: {method: jwt, mount: clusters/blue, role: web}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{Options: Options{ConfigFile: file, Namespace: "shop"}, kube: asking(t, nil), vaults: make(map[string]*vault)}
	configuration(t.Context(), e)
	connections(t.Context(), e)
	want(t, "logins", logins(t.Context(), e),
		"-     login a: not checked: method approle shows what lies in the Secrets of namespace shop that the connection names, which is not read here",
		`FAIL  login b: logging in as ServiceAccount shop/default with role "web" at auth/clusters/blue: role "web" could not be found (400) (create the role "web" at this mount`)
}
