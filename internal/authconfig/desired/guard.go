package desired

import (
	"fmt"
	"slices"
	"strings"
)

// guard is everything that is wrong with a role as a whole. Of fields in bad it
// says nothing: those were not understood.
func guard(src Source, f Fields, bad map[string]bool) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	strs := func(name string) []string { return f[name].([]string) }
	num := func(name string) int64 { return f[name].(int64) }
	good := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return bad[name] })
	}
	const (
		names      = "bound_service_account_names"
		namespaces = "bound_service_account_namespaces"
		selector   = "bound_service_account_namespace_selector"
	)

	anyName := slices.Equal(strs(names), []string{"*"})
	anyNamespace := slices.Equal(strs(namespaces), []string{"*"})
	if good(names) && len(strs(names)) == 0 {
		add(`%s: missing (%s)`, names, accounts.allowed)
	}
	if good(namespaces, selector) && len(strs(namespaces)) == 0 && f[selector] == "" {
		add(`%s: missing (a list of namespace names, or %s)`, namespaces, selector)
	}
	switch {
	case anyName && anyNamespace:
		add(`%s: "*" beside the namespace "*" lets every pod of the cluster log in (names of ServiceAccounts, of namespaces or of both)`, names)
	case anyName && !src.AllowAnyName:
		add(`%s: "*" lets every pod of its namespaces log in (names; or allowAnyServiceAccount: true for this source in authconfig's configuration)`, names)
	}
	if allowed := src.AllowedNamespaces; len(allowed) > 0 {
		for _, ns := range strs(namespaces) {
			if !covered(allowed, ns) {
				add(`%s: %s is not for roles of this ConfigMap (%s)`, namespaces, quote(ns), strings.Join(allowed, ", "))
			}
		}
		// Labels can be given to any namespace.
		if f[selector] != "" && !covered(allowed, "*") {
			add(`%s: is not for roles of this ConfigMap, whose namespaces are limited (%s with %s)`, selector, namespaces, strings.Join(allowed, ", "))
		}
	}

	// Policies with templates can depend on it.
	if len(f["alias_metadata"].(map[string]string)) > 0 && len(src.AllowedNamespaces)+len(src.AllowedPolicies) > 0 {
		add(`alias_metadata: is not for roles of this ConfigMap, whose namespaces or policies are limited (none)`)
	}

	if good("token_policies") && len(strs("token_policies")) == 0 {
		add(`token_policies: missing (a list of names; ["default"] for no more than Vault gives every token)`)
	}
	for _, policy := range strs("token_policies") {
		switch {
		case policy == "root":
			add(`token_policies: "root" may do everything (other policies)`)
		case policy != "default" && len(src.AllowedPolicies) > 0 && !covered(lower(src.AllowedPolicies), policy):
			add(`token_policies: %s is not for roles of this ConfigMap (%s)`, quote(policy), strings.Join(src.AllowedPolicies, ", "))
		}
	}

	if ttl, longest := num("token_ttl"), num("token_max_ttl"); longest > 0 && ttl > longest {
		add(`token_ttl: %d is more than token_max_ttl, %d (at most that)`, ttl, longest)
	}
	if f["token_type"] == "batch" {
		for _, name := range []string{"token_period", "token_num_uses"} {
			if num(name) > 0 {
				add(`%s: %d, which tokens of type batch cannot have (0, or token_type: service)`, name, num(name))
			}
		}
	}
	return problems
}

// covered reports whether one of some globs allows a name or a pattern. A
// pattern is covered by what covers all that it stands for: its "*" is a
// character like others, which nothing matches but the glob's "*".
func covered(globs []string, pattern string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { return match(g, pattern) })
}

// match reports whether s is what a glob stands for, in which "*" is any run of
// characters.
func match(glob, s string) bool {
	parts := strings.Split(glob, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return s == glob
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(s, part)
		if !ok {
			return false
		}
		s = after
	}
	return true
}

func lower(words []string) []string {
	l := make([]string, len(words))
	for i, w := range words {
		l[i] = strings.ToLower(w)
	}
	return l
}
