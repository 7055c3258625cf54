package agent

import (
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode"
)

// refusal is why a request of an app is not passed on.
type refusal struct {
	status int
	text   string
}

// cleanPath returns the path of Vault's API that a request is for, decoded and
// without the leading "/v1/", or why it is not passed on. What Vault would
// redirect to another path is refused: passed on, it would be judged as one
// thing here and be another there.
func cleanPath(decoded string) (string, *refusal) {
	p, ok := strings.CutPrefix(decoded, "/v1/")
	trimmed := strings.TrimSuffix(p, "/") // as a LIST has it
	switch {
	case !ok || trimmed == "":
		return "", &refusal{http.StatusNotFound, "no path of Vault's API (/v1/…)"}
	case path.Clean("/"+trimmed) != "/"+trimmed, strings.ContainsFunc(p, func(r rune) bool { return r == '\\' || r == unicode.ReplacementChar || unicode.IsControl(r) }):
		return "", &refusal{http.StatusBadRequest, "the path holds \"//\", \".\", \"..\", a backslash or a control character (the path of Vault's API as it is)"}
	}
	return p, nil
}

// tokenCalls are what follows each auth/token/ in a path, one part of it, in
// lower case. A namespace may stand before it, which has no name of that kind,
// and Vault's router may know one by another case, so that what looks like it is
// taken for it.
func tokenCalls(p string) (calls []string) {
	s := strings.Split(strings.ToLower(strings.Trim(p, "/")), "/")
	for i := range len(s) - 2 {
		if s[i] == "auth" && s[i+1] == "token" {
			calls = append(calls, s[i+2])
		}
	}
	return calls
}

// guard says why a request may not be made with the agent's own token: those
// that would end it under all who use it, those that make tokens, which would
// live on when the pod is gone or be left behind by it, and those whose answer
// would hide it in a wrapping that only Vault can open. The namespace is the one
// that the request states: whatever servers make of one that holds a part of the
// path, it is judged as the path's beginning.
func guard(method, namespace, p string, wrapped bool) *refusal {
	calls := tokenCalls(strings.Trim(namespace, "/") + "/" + p)
	if len(calls) == 0 || slices.Contains([]string{http.MethodGet, http.MethodHead, "LIST"}, method) && !wrapped {
		return nil
	}
	is := func(what string) bool {
		return slices.ContainsFunc(calls, func(call string) bool { return strings.HasPrefix(call, what) })
	}
	switch {
	case is("revoke"):
		return &refusal{http.StatusForbidden, "the agent's token is not revoked by an app, nor is anything with it (a token of the app's own in X-Vault-Token)"}
	case is("create"):
		return &refusal{http.StatusForbidden, "no token is made with the agent's, since it would end with it (a login of the app's own, at auth/…/login)"}
	case wrapped:
		return &refusal{http.StatusForbidden, "an answer about the agent's token is not wrapped (without X-Vault-Wrap-TTL)"}
	}
	return nil
}
