package desired

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func jsonMap(t *testing.T, s string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// As a Vault 1.21 answered the role of the blog's `vault write`, in which case,
// order and old names are the writer's.
const byHand = `{"alias_name_source":"serviceaccount_uid","audience":"vault","bound_service_account_names":["b","a"],
"bound_service_account_namespace_selector":"","bound_service_account_namespaces":["default"],"policies":["Default"],
"token_bound_cidrs":["10.1.2.3/8"],"token_explicit_max_ttl":0,"token_max_ttl":0,"token_no_default_policy":false,"token_num_uses":0,
"token_period":0,"token_policies":["Default"],"token_ttl":3600,"token_type":"default","ttl":3600}`

func TestCanonicalOfWhatSomebodyWrote(t *testing.T) {
	r := Parse([]ConfigMap{{Data: map[string]string{"app": `
bound_service_account_names: a,b
bound_service_account_namespaces: default
policies: default
ttl: 1h
bound_cidrs: 10.0.0.0/8`}}}, Defaults{MountType: "kubernetes", Audience: "vault"})
	want := r.Roles["app"].Fields
	if got := Canonical("kubernetes", jsonMap(t, byHand)); want == nil || !Equal(got, want) {
		t.Errorf("%v, want %v (%v)", got, want, r.Problems)
	}
	for name, raw := range map[string]string{
		"another type":       `{"token_ttl":"an hour"}`,
		"another selector":   `{"bound_service_account_namespace_selector":"{}"}`,
		"an odd name":        `{"bound_service_account_names":["a,b"]}`,
		"an odd list":        `{"bound_service_account_names":[1]}`,
		"an odd audience":    `{"audience":"a b"}`,
		"a socket":           `{"token_bound_cidrs":["10.0.0.0/8","socket"]}`,
		"another token type": `{"token_type":"default-service"}`,
		"another number":     `{"token_ttl":3601}`,
	} {
		answer := jsonMap(t, byHand)
		maps.Copy(answer, jsonMap(t, raw))
		if got := Canonical("kubernetes", answer); Equal(got, want) {
			t.Errorf("%s: no difference in %v", name, got)
		}
	}
	if got := Canonical("kubernetes", nil); got != nil {
		t.Errorf("nothing is %v", got)
	}
	if got := Canonical("userpass", map[string]any{"token_ttl": 1}); len(got) != 0 {
		t.Errorf("a role of a user is %v", got)
	}
}

func TestCanonicalBoundClaims(t *testing.T) {
	is := func(claims string) Fields { return Canonical("jwt", jsonMap(t, `{"bound_claims":`+claims+`}`)) }
	want := is(`{"/a":["x","y"]}`)
	for _, same := range []string{`{"/a":["y","x"]}`, `{"/a":"x,y"}`} {
		if got := is(same); !Equal(got, want) {
			t.Errorf("%s is %v", same, got)
		}
	}
	for _, other := range []string{`null`, `{}`, `{"/a":["x"]}`, `{"/a":["x","y"],"/b":["z"]}`, `{"/a":["x","y"],"/b":1}`, `{"/a":["x,y"]}`} {
		if got := is(other); Equal(got, want) {
			t.Errorf("no difference in %s", other)
		}
	}
}

const (
	pemA = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n"
	pemB = "-----BEGIN PUBLIC KEY-----\nYg==\n-----END PUBLIC KEY-----\n"
)

func TestCanonicalConfig(t *testing.T) {
	want := CanonicalConfig("kubernetes", map[string]any{
		"kubernetes_host": "https://k", "kubernetes_ca_cert": "# the cluster's\n" + strings.Replace(strings.ReplaceAll(pemA, "\n", "\r\n"), "YQ", "Name: ca\r\n\r\nYQ", 1) + "\n\n", "pem_keys": []string{pemB, pemA},
	})
	got := CanonicalConfig("kubernetes", map[string]any{
		"kubernetes_host": "https://k", "kubernetes_ca_cert": strings.TrimSpace(pemA), "pem_keys": []any{pemA, pemB + "\n"},
		"issuer": "", "disable_iss_validation": true, "disable_local_ca_jwt": false, "token_reviewer_jwt_set": true, "use_annotations_as_alias_metadata": false,
	})
	if !Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, other := range []map[string]any{
		{"kubernetes_host": "https://other"},
		{"kubernetes_ca_cert": pemB},
		{"kubernetes_ca_cert": ""},
		{"kubernetes_ca_cert": "broken"},
		{"pem_keys": []any{pemA}},
		{"pem_keys": nil},
		{"issuer": "x"},
		{"disable_iss_validation": false},
		{"disable_local_ca_jwt": true},
		{"use_annotations_as_alias_metadata": true},
	} {
		answer := map[string]any{"kubernetes_host": "https://k", "kubernetes_ca_cert": pemA, "pem_keys": []any{pemA, pemB}}
		maps.Copy(answer, other)
		if got := CanonicalConfig("kubernetes", answer); Equal(got, want) {
			t.Errorf("no difference in %v", other)
		}
	}
	jwt := CanonicalConfig("jwt", map[string]any{"jwt_validation_pubkeys": []string{pemB + pemA, pemA}, "oidc_client_id": "x"})
	if got := jwt["jwt_validation_pubkeys"]; !slices.Equal(got.([]string), []string{pemA, pemB + pemA}) {
		t.Errorf("keys %q", got)
	}
	if _, ok := jwt["oidc_client_id"]; ok || len(jwt) != 8 {
		t.Errorf("config %v", jwt)
	}
}

// Vault keeps what a write leaves out. What an older one does not know is not
// sent unless somebody wants it.
func TestSent(t *testing.T) {
	plain := Canonical("kubernetes", map[string]any{"token_ttl": 0})
	set := Canonical("kubernetes", map[string]any{
		"alias_metadata": map[string]any{"a": "b"}, "bound_service_account_namespace_selector": `{"matchLabels":{"a":"b"}}`})
	for name, c := range map[string]struct {
		after, before Fields
		want          []string
	}{
		"made":       {plain, nil, nil},
		"made whole": {set, nil, []string{"alias_metadata", "bound_service_account_namespace_selector"}},
		"kept":       {plain, plain, nil},
		"unset":      {plain, set, []string{"alias_metadata", "bound_service_account_namespace_selector"}},
	} {
		sent := Sent(c.after, c.before)
		for _, optional := range []string{"alias_metadata", "bound_service_account_namespace_selector"} {
			if _, ok := sent[optional]; ok != slices.Contains(c.want, optional) {
				t.Errorf("%s: %s is sent: %v", name, optional, ok)
			}
		}
		for _, always := range []string{"bound_service_account_names", "audience", "token_ttl", "token_no_default_policy", "token_bound_cidrs"} {
			if v, ok := sent[always]; !ok || v == nil {
				t.Errorf("%s: %s is not sent", name, always)
			}
		}
	}
	if l := Sent(plain, nil)["token_bound_cidrs"].([]string); l == nil {
		t.Error("an empty list would be sent as null, which Vault takes for a field that was left out")
	}
	config := CanonicalConfig("kubernetes", map[string]any{"use_annotations_as_alias_metadata": false})
	if _, ok := Sent(config, nil)["use_annotations_as_alias_metadata"]; ok || Sent(config, nil)["disable_iss_validation"] != true {
		t.Errorf("config sent as %v", Sent(config, nil))
	}
}
