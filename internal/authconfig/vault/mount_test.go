package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// paths has f answer what is at each path, and that nothing is at any other.
func (f *fake) paths(at map[string]string) {
	f.answer = func(w http.ResponseWriter, r *http.Request) {
		path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
		body, ok := at[path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"errors":[]}`
		}
		_, _ = io.WriteString(w, body)
	}
}

const (
	listed = `{"data":{"token/":{"type":"token","accessor":"t"},"kubernetes/":{"type":"kubernetes","accessor":"auth_kubernetes_1","description":"d","config":{"default_lease_ttl":0,"max_lease_ttl":3600}}}}`
	aRole  = `{"data":{"bound_service_account_names":["app"],"bound_service_account_namespaces":["shop"],"token_policies":["app"],"token_ttl":60}}`
)

func TestObserve(t *testing.T) {
	f, c := start(t, nil)
	f.paths(map[string]string{
		"sys/auth": listed, "auth/kubernetes/config": `{"data":{"kubernetes_host":"https://api","kubernetes_ca_cert":"# Reviewer token: Secret a 1\nCA","token_reviewer_jwt_set":true}}`,
		"auth/kubernetes/role": `{"data":{"keys":["app","gone"]}}`, "auth/kubernetes/role/app": aRole,
	})
	o, err := c.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (&plan.Mount{Type: "kubernetes", Accessor: "auth_kubernetes_1", Tune: plan.Tune{Description: "d", MaxLeaseTTL: time.Hour}}); !reflect.DeepEqual(o.Mount, want) {
		t.Errorf("the mount is %+v", o.Mount)
	}
	if o.Cluster != "c" || o.Config["kubernetes_host"] != "https://api" || o.ReviewerToken == nil || !*o.ReviewerToken || o.Mark != "Secret a 1" {
		t.Errorf("observed is %+v", o)
	}
	// One that vanished after it was listed is absent.
	if len(o.Roles) != 1 || o.Roles["app"]["token_ttl"] != int64(60) {
		t.Errorf("the roles are %v", o.Roles)
	}
}

// A Vault that does not say whether it has a reviewer token says which all the
// same: else it would get another with each look.
func TestObserveAnOlderVault(t *testing.T) {
	f, c := start(t, nil)
	f.paths(map[string]string{"sys/auth": listed, "auth/kubernetes/config": `{"data":{"kubernetes_host":"https://api","kubernetes_ca_cert":"# Reviewer token: Secret a 1\nCA"}}`})
	o, err := c.Observe(t.Context())
	if err != nil || o.ReviewerToken != nil || o.Mark != "Secret a 1" {
		t.Errorf("observed is %+v (%v)", o, err)
	}
}

func TestObserveWhereNothingIsKept(t *testing.T) {
	for name, test := range map[string]struct {
		mounts   string
		typ      string
		inTheWay string
	}{
		"free":       {`{"data":{"token/":{"type":"token"}}}`, "", ""},
		"above":      {`{"data":{"token/":{},"kubernetes/staging/":{"type":"kubernetes"}}}`, "", "kubernetes/staging"},
		"beside":     {`{"data":{"token/":{},"kubernetes-staging/":{"type":"kubernetes"}}}`, "", ""},
		"other type": {`{"data":{"token/":{},"kubernetes/":{"type":"userpass","accessor":"u"}}}`, "userpass", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := start(t, nil)
			f.paths(map[string]string{"sys/auth": test.mounts})
			o, err := c.Observe(t.Context())
			if err != nil || (o.Mount == nil) != (test.typ == "") || o.Mount != nil && o.Mount.Type != test.typ || o.InTheWay != test.inTheWay {
				t.Errorf("observed is %+v (%v)", o, err)
			}
			f.want(0, "GET auth/kubernetes/config")
		})
	}
}

// Nothing may be taken for absent that Vault does not call so: it would be made,
// or its record be given up.
func TestObserveAnswersThatLackSomething(t *testing.T) {
	const config = `{"data":{"kubernetes_host":"https://api"}}`
	for name, test := range map[string]struct {
		at   map[string]string
		want string
	}{
		"no mounts":     {map[string]string{}, "the answer lacks what it should hold"},
		"other JSON":    {map[string]string{"sys/auth": `{"message":"welcome"}`}, "reading sys/auth: the answer lacks"},
		"config other":  {map[string]string{"sys/auth": listed, "auth/kubernetes/config": `{"message":"welcome"}`}, "reading auth/kubernetes/config: the answer lacks"},
		"no accessor":   {map[string]string{"sys/auth": `{"data":{"token/":{},"kubernetes/":{"type":"kubernetes"}}}`}, "reading mount kubernetes in sys/auth: the answer lacks"},
		"another form":  {map[string]string{"sys/auth": `{"data":{"token/":{},"kubernetes/":"x"}}`}, "reading mount kubernetes in sys/auth"},
		"no config":     {map[string]string{"sys/auth": listed, "auth/kubernetes/config": `{}`}, "reading auth/kubernetes/config: the answer lacks"},
		"list no keys":  {map[string]string{"sys/auth": listed, "auth/kubernetes/config": config, "auth/kubernetes/role": `{"data":{}}`}, "the answer lacks"},
		"role no field": {map[string]string{"sys/auth": listed, "auth/kubernetes/config": config, "auth/kubernetes/role": `{"data":{"keys":["app"]}}`, "auth/kubernetes/role/app": `{"auth":null}`}, "reading auth/kubernetes/role/app: the answer lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := start(t, nil)
			f.paths(test.at)
			_, err := c.Observe(t.Context())
			f.wantError(err, test.want)
		})
	}
}

// sent has f answer writes with an answer, and returns all of them.
func (f *fake) sent(answers func(method, path string) string) *[]string {
	all := new([]string)
	f.answer = func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		var body map[string]any
		// fake has read the body already: what GetBody gives is the same.
		if again, err := r.GetBody(); err == nil && again != nil {
			_ = json.NewDecoder(again).Decode(&body) // nothing is sent with some
		}
		text, _ := json.Marshal(body)
		*all = append(*all, fmt.Sprintf("%s %s %s", r.Method, path, text))
		if answer := answers(r.Method, path); answer != "" {
			_, _ = io.WriteString(w, answer)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
	return all
}

func fields(t *testing.T, text string) desired.Fields {
	t.Helper()
	var raw map[string]any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatal(err)
	}
	return desired.Canonical(desired.Kubernetes, raw)
}

func TestEveryFieldIsSentAndListsAreLists(t *testing.T) {
	f, c := start(t, nil)
	all := f.sent(func(string, string) string { return "" })
	role := fields(t, `{"bound_service_account_names":["app"],"bound_service_account_namespaces":["shop"],"token_policies":["app"]}`)
	role["token_bound_cidrs"] = []string(nil) // null would leave what is there
	if err := c.WriteRole(t.Context(), "app", nil, role); err != nil {
		t.Fatal(err)
	}
	want := `PUT auth/kubernetes/role/app {"alias_name_source":"serviceaccount_uid","audience":"","bound_service_account_names":["app"],"bound_service_account_namespaces":["shop"],` +
		`"token_bound_cidrs":[],"token_explicit_max_ttl":0,"token_max_ttl":0,"token_no_default_policy":false,"token_num_uses":0,"token_period":0,"token_policies":["app"],"token_ttl":0,"token_type":"default"}`
	if !slices.Equal(*all, []string{want}) {
		t.Errorf("it sent\n%s\nand not\n%s", strings.Join(*all, "\n"), want)
	}
}

func TestTuneAndEnable(t *testing.T) {
	f, c := start(t, nil)
	all := f.sent(func(method, _ string) string {
		if method == http.MethodGet {
			return listed
		}
		return ""
	})
	accessor, err := c.Enable(t.Context(), "kubernetes", plan.Tune{Description: "d", MaxLeaseTTL: 90 * time.Minute})
	if err != nil || accessor != "auth_kubernetes_1" {
		t.Errorf("it returned %q (%v)", accessor, err)
	}
	if err := c.Tune(t.Context(), plan.Tune{}); err != nil {
		t.Error(err)
	}
	if want := []string{
		`PUT sys/auth/kubernetes {"config":{"default_lease_ttl":"system","max_lease_ttl":"5400s"},"description":"d","type":"kubernetes"}`,
		`GET sys/auth null`,
		`PUT sys/mounts/auth/kubernetes/tune {"default_lease_ttl":"system","description":"","max_lease_ttl":"system"}`,
	}; !slices.Equal(*all, want) {
		t.Errorf("it sent\n%s", strings.Join(*all, "\n"))
	}
}

func TestAFieldThatVaultDoesNotKnow(t *testing.T) {
	const with = `{"bound_service_account_names":["app"],"token_policies":["app"],"alias_metadata":{"team":"shop"}}`
	says := func(text string) func(string, string) string {
		return func(method, _ string) string {
			if method == http.MethodGet {
				return aRole
			}
			return text
		}
	}
	warns := `{"warnings":["role app has no audience","Endpoint ignored these unrecognized parameters: [alias_metadata]"]}`
	for name, test := range map[string]struct {
		answers func(string, string) string
		before  string
		calls   []string
		says    string
	}{
		"a new role, and Vault says so": {says(warns), "", []string{"PUT", "DELETE"}, "the role was deleted again"},
		"a role, and Vault says so":     {says(warns), aRole, []string{"PUT", "PUT"}, "the role is again what it was"},
		"a new role, and Vault is mute": {says(""), "", []string{"PUT", "GET", "DELETE"}, "the role was deleted again"},
		"a role, and Vault is mute":     {says(""), aRole, []string{"PUT", "GET", "PUT"}, "the role is again what it was"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := start(t, nil)
			all := f.sent(test.answers)
			var before desired.Fields
			if test.before != "" {
				before = fields(t, `{"bound_service_account_names":["app"],"bound_service_account_namespaces":["shop"],"token_policies":["app"],"token_ttl":60}`)
			}
			err := c.WriteRole(t.Context(), "app", before, fields(t, with))
			f.wantError(err, "writing auth/kubernetes/role/app: Vault does not know alias_metadata", test.says)
			var methods []string
			for _, call := range *all {
				method, _, _ := strings.Cut(call, " ")
				methods = append(methods, method)
			}
			if !slices.Equal(methods, test.calls) {
				t.Errorf("it sent\n%s", strings.Join(*all, "\n"))
			}
			if last := (*all)[len(*all)-1]; before != nil && (strings.Contains(last, "alias_metadata") || !strings.Contains(last, `"token_ttl":60`)) {
				t.Errorf("to undo it, it sent %s", last)
			}
		})
	}
}

func TestConfigIsReadBackWhereVaultMayNotKnowIt(t *testing.T) {
	config := desired.CanonicalConfig(desired.Kubernetes, map[string]any{"kubernetes_host": "https://api", "use_annotations_as_alias_metadata": true})
	for answer, want := range map[string]string{
		`{"data":{"kubernetes_host":"https://api","use_annotations_as_alias_metadata":true}}`: "",
		`{"data":{"kubernetes_host":"https://api"}}`:                                          "Vault does not know use_annotations_as_alias_metadata",
	} {
		f, c := start(t, nil)
		all := f.sent(func(method, _ string) string {
			if method == http.MethodGet {
				return answer
			}
			return ""
		})
		err := c.WriteConfig(t.Context(), config, sealed.Of("jwt-of-the-test"))
		if want == "" && err != nil || want != "" {
			f.wantError(err, want)
		}
		if !strings.Contains((*all)[0], `"token_reviewer_jwt":"jwt-of-the-test"`) {
			t.Error("the reviewer token was not sent")
		}
	}
	f, c := start(t, nil)
	all := f.sent(func(string, string) string { return "" })
	delete(config, "use_annotations_as_alias_metadata")
	if err := c.WriteConfig(t.Context(), config, sealed.Value[string]{}); err != nil {
		t.Error(err)
	}
	if len(*all) != 1 || strings.Contains((*all)[0], "token_reviewer_jwt") {
		t.Errorf("it sent %s", *all)
	}
}

// Roles that may not be looked at hide nothing else. A Vault that is gone does.
func TestObserveWithoutRoles(t *testing.T) {
	f, c := start(t, nil)
	f.paths(map[string]string{
		"sys/auth": listed, "auth/kubernetes/config": `{"data":{"kubernetes_host":"https://api"}}`,
		"auth/kubernetes/role": `{"data":{"keys":["app"]}}`, "auth/kubernetes/role/app": `{"data":{"of":"a proxy"}}`,
	})
	see := func(name string, partial bool) {
		t.Helper()
		o, err := c.Observe(t.Context())
		if got := errors.As(err, new(RolesError)); err == nil || got != partial || !o.RolesUnknown || len(o.Roles) > 0 {
			t.Errorf("%s: %+v (%v)", name, o, err)
		}
		if partial && (o.Mount == nil || o.Config["kubernetes_host"] != "https://api") {
			t.Errorf("%s: %+v", name, o)
		}
	}
	see("nonsense", true)
	f.set(func() {
		f.deny = func(path string) bool { return strings.HasPrefix(path, "auth/kubernetes/role") }
	})
	see("denied", true)
	answer := f.answer
	f.set(func() {
		f.deny = nil
		f.answer = func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/v1/auth/kubernetes/role") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			answer(w, r)
		}
	})
	see("sealed meanwhile", false)
}
