package desired

// The types of mount that are kept.
const (
	Kubernetes = "kubernetes"
	JWT        = "jwt"
)

// field is one parameter of an endpoint of Vault.
type field struct {
	name string
	// twin is its deprecated name. Vault still reads it, and answers it beside the
	// new one if it was written.
	twin string
	kind kind
	// def is what it is where nobody wrote it; nil is the kind's zero value.
	def any
	// optional fields are not known to every Vault: they are only sent if they are
	// set, or to be unset.
	optional bool
	// doc is one sentence for people, and jwt what a mount of that type makes of
	// the field; empty is the same.
	doc, jwt string
}

// value is what the field is where nobody wrote it.
func (f *field) value() any {
	if f.def != nil {
		return f.def
	}
	return f.kind.zero()
}

// tokenFields are those of a role that say what its tokens are like, on mounts
// of every type. Source: tokenutil.TokenFields of Vault's sdk.
var tokenFields = []field{
	{name: "token_policies", twin: "policies", kind: policies,
		doc: "Policies of the tokens; `root` is refused, and Vault adds `default` unless `token_no_default_policy` is true."},
	{name: "token_ttl", twin: "ttl", kind: seconds,
		doc: "Life of a token until it has to be renewed; 0 is the mount's."},
	{name: "token_max_ttl", twin: "max_ttl", kind: seconds,
		doc: "Life of a token with all its renewals; 0 is the mount's."},
	{name: "token_period", twin: "period", kind: seconds,
		doc: "Makes tokens that can be renewed for ever, each time for this long."},
	{name: "token_explicit_max_ttl", kind: seconds,
		doc: "Life of a token with all its renewals, whatever the mount's settings become."},
	{name: "token_num_uses", twin: "num_uses", kind: count,
		doc: "How many requests a token is good for; 0 is any number, and what an agent needs."},
	{name: "token_bound_cidrs", twin: "bound_cidrs", kind: cidrs,
		doc: "Networks from which Vault accepts a login and its token."},
	{name: "token_no_default_policy", kind: boolean,
		doc: "Leaves Vault's policy `default` out, without which a token cannot renew itself."},
	{name: "token_type", kind: enum("default", "service", "batch"),
		doc: "What kind of token a login gets; `default` is the mount's."},
}

// roleFields is what people may write in a role, and what a role of a mount of
// type kubernetes consists of. Source: path_role.go of
// vault-plugin-auth-kubernetes.
var roleFields = append([]field{
	{name: "bound_service_account_names", kind: accounts,
		doc: "Names of the ServiceAccounts that may log in; `*` stands for any run of characters.",
		jwt: "`bound_claims`"},
	{name: "bound_service_account_namespaces", kind: namespaces,
		doc: "Namespaces of the ServiceAccounts that may log in; `*` stands for any run of characters.",
		jwt: "`bound_claims`"},
	{name: "bound_service_account_namespace_selector", kind: selector, optional: true,
		doc: "Labels of namespaces whose ServiceAccounts may log in too, with `matchLabels` alone; Vault's reviewer has to be allowed to read namespaces.",
		jwt: "refused"},
	{name: "audience", kind: text,
		doc: "Audience that a ServiceAccount's token must be for; the empty string is none.",
		jwt: "`bound_audiences`"},
	{name: "alias_name_source", kind: enum("serviceaccount_uid", "serviceaccount_name"),
		doc: "What Vault knows the ServiceAccount by: its uid, or `namespace/name`, which one that is deleted and made anew inherits.",
		jwt: "`user_claim`; a name is `system:serviceaccount:namespace:name`"},
	{name: "alias_metadata", kind: stringMap, optional: true,
		doc: "Metadata that the ServiceAccount's entity alias gets; an older Vault does not know the field.",
		jwt: "refused"},
}, tokenFields...)

// jwtRoleFields is what a role of a mount of type jwt consists of. Source:
// path_role.go of vault-plugin-auth-jwt.
var jwtRoleFields = append([]field{
	{name: "role_type", kind: text, def: "jwt"},
	{name: "bound_audiences", kind: list},
	{name: "bound_subject", kind: text},
	{name: "bound_claims_type", kind: text, def: "string"},
	{name: "bound_claims", kind: listMap},
	{name: "claim_mappings", kind: stringMap},
	{name: "user_claim", kind: text},
	{name: "user_claim_json_pointer", kind: boolean},
	{name: "groups_claim", kind: text},
	// 0 is Vault's own leeway, -1 none.
	{name: "expiration_leeway", kind: leeway},
	{name: "not_before_leeway", kind: leeway},
	{name: "clock_skew_leeway", kind: leeway},
	{name: "oidc_scopes", kind: list},
	{name: "allowed_redirect_uris", kind: list},
	{name: "verbose_oidc_logging", kind: boolean},
	{name: "max_age", kind: seconds},
	{name: "alias_metadata", kind: stringMap, optional: true},
}, tokenFields...)

// kubernetesConfigFields is the config of a mount of type kubernetes without the
// reviewer's token, which Vault never answers. Source: path_config.go of
// vault-plugin-auth-kubernetes.
var kubernetesConfigFields = []field{
	{name: "kubernetes_host", kind: text},
	{name: "kubernetes_ca_cert", kind: certificates},
	{name: "pem_keys", kind: keys},
	{name: "issuer", kind: text},
	{name: "disable_iss_validation", kind: boolean, def: true},
	{name: "disable_local_ca_jwt", kind: boolean},
	{name: "use_annotations_as_alias_metadata", kind: boolean, optional: true},
}

// jwtConfigFields is the config of a mount of type jwt, without what only its
// logins with a browser use. Source: path_config.go of vault-plugin-auth-jwt.
var jwtConfigFields = []field{
	{name: "oidc_discovery_url", kind: text},
	{name: "oidc_discovery_ca_pem", kind: certificates},
	{name: "jwks_url", kind: text},
	{name: "jwks_ca_pem", kind: certificates},
	{name: "jwt_validation_pubkeys", kind: keys},
	{name: "jwt_supported_algs", kind: list},
	{name: "bound_issuer", kind: text},
	{name: "default_role", kind: text},
}

// optional are the names of all optional fields.
var optional = func() map[string]bool {
	names := make(map[string]bool)
	for _, table := range [][]field{roleFields, jwtRoleFields, kubernetesConfigFields, jwtConfigFields} {
		for _, f := range table {
			if f.optional {
				names[f.name] = true
			}
		}
	}
	return names
}()
