package desired

// The claims of a ServiceAccount's token, as JSON pointers, which Vault takes
// where a name begins with "/". Source: the API server's own claims, under
// "kubernetes.io".
const (
	claimNamespace = "/kubernetes.io/namespace"
	claimName      = "/kubernetes.io/serviceaccount/name"
	claimUID       = "/kubernetes.io/serviceaccount/uid"
)

// untranslatable is what a mount of type jwt cannot do of a role. Of fields in
// bad it says nothing.
func untranslatable(role Fields, bad map[string]bool) []string {
	var problems []string
	if role["audience"] == "" && !bad["audience"] {
		problems = append(problems, "audience: missing (the audience of the ServiceAccount's token, which a mount of type jwt cannot do without)")
	}
	if role["bound_service_account_namespace_selector"] != "" {
		problems = append(problems, "bound_service_account_namespace_selector: not on a mount of type jwt, which reads no labels of namespaces (bound_service_account_namespaces)")
	}
	if len(role["alias_metadata"].(map[string]string)) > 0 {
		problems = append(problems, "alias_metadata: not on a mount of type jwt, where the token's claims are the metadata (none)")
	}
	return problems
}

// translate makes a role of a mount of type jwt that lets the same ServiceAccounts
// log in.
func translate(role Fields) Fields {
	f := canonical(jwtRoleFields, map[string]any{})
	for _, t := range tokenFields {
		f[t.name] = role[t.name]
	}
	f["bound_audiences"] = []string{role["audience"].(string)}
	f["bound_claims_type"] = "glob"
	// "*" stays: it still asks for the claim, which only tokens of
	// ServiceAccounts have.
	f["bound_claims"] = map[string][]string{
		claimName:      role["bound_service_account_names"].([]string),
		claimNamespace: role["bound_service_account_namespaces"].([]string),
	}
	// As the kubernetes method names them.
	f["claim_mappings"] = map[string]string{
		claimName:      "service_account_name",
		claimNamespace: "service_account_namespace",
		claimUID:       "service_account_uid",
	}
	f["user_claim"], f["user_claim_json_pointer"] = claimUID, true
	if role["alias_name_source"] == "serviceaccount_name" {
		f["user_claim"], f["user_claim_json_pointer"] = "sub", false
	}
	return f
}

// Probe is a role of authconfig's own, with which a ServiceAccount can log in to
// show that logins work: its tokens may do nothing and leave nothing behind in
// Vault.
func Probe(d Defaults, namespace, account string) Fields {
	role := canonical(roleFields, map[string]any{
		"bound_service_account_names":      []string{account},
		"bound_service_account_namespaces": []string{namespace},
		"audience":                         d.Audience,
		"token_no_default_policy":          true,
		"token_type":                       "batch",
		"token_ttl":                        60,
	})
	if d.MountType == JWT {
		role = translate(role)
	}
	return role
}
