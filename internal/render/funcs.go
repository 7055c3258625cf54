package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/sprig/v3"
)

// functions are those that depend on their arguments alone. Each has Vault
// Agent's name, order of arguments (what is piped comes last) and result.
var functions = map[string]any{
	"base64Decode":          base64Decode,
	"base64Encode":          base64Encode,
	"base64URLDecode":       base64URLDecode,
	"base64URLEncode":       base64URLEncode,
	"contains":              func(v, list any) bool { return in(list, v) },
	"containsAll":           containsAll,
	"containsAny":           containsAny,
	"containsNone":          func(values []any, list any) bool { return !containsAny(values, list) },
	"containsNotAll":        func(values []any, list any) bool { return !containsAll(values, list) },
	"explodeMap":            explodeMap,
	"in":                    in,
	"indent":                indent,
	"join":                  func(sep string, list []string) string { return strings.Join(list, sep) },
	"loop":                  loop,
	"mergeMap":              mergeMap,
	"mergeMapWithOverride":  mergeMapWithOverride,
	"trim":                  func(cutset, s string) string { return strings.Trim(s, cutset) },
	"trimPrefix":            func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix":            func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"trimSpace":             strings.TrimSpace,
	"parseBool":             parseBool,
	"parseFloat":            parseFloat,
	"parseInt":              parseInt,
	"parseUint":             parseUint,
	"parseJSON":             parseJSON,
	"parseYAML":             parseYAML,
	"regexMatch":            regexMatch,
	"regexReplaceAll":       regexReplaceAll,
	"replaceAll":            func(from, to, s string) string { return strings.ReplaceAll(s, from, to) },
	"sha256Hex":             sha256Hex,
	"md5sum":                md5sum,
	"hmacSHA256Hex":         hmacSHA256Hex,
	"sockaddr":              sockaddr,
	"split":                 split,
	"splitToMap":            splitToMap,
	"timestamp":             timestamp,
	"toJSON":                toJSON,
	"toJSONPretty":          toJSONPretty,
	"toUnescapedJSON":       toUnescapedJSON,
	"toUnescapedJSONPretty": toUnescapedJSONPretty,
	"toTOML":                toTOML,
	"toYAML":                toYAML,
	"toLower":               strings.ToLower,
	"toTitle":               toTitle,
	"toUpper":               strings.ToUpper,
	"add":                   add,
	"subtract":              subtract,
	"multiply":              multiply,
	"divide":                divide,
	"modulo":                modulo,
	"minimum":               minimum,
	"maximum":               maximum,
	// sprig gives these in the order of a Go map, which is another each time.
	"sprig_keys":   sortedKeys,
	"sprig_values": sortedValues,
}

// bound are the functions that belong to one execution.
var bound = map[string]func(*Renderer) any{
	"secret":          func(r *Renderer) any { return r.secret },
	"secrets":         func(r *Renderer) any { return r.secrets },
	"pkiCert":         func(r *Renderer) any { return r.pkiCert },
	"env":             func(r *Renderer) any { return r.env },
	"mustEnv":         func(r *Renderer) any { return r.mustEnv },
	"envOrDefault":    func(r *Renderer) any { return r.envOrDefault },
	"file":            func(r *Renderer) any { return r.readFile },
	"executeTemplate": func(r *Renderer) any { return r.executeTemplate },
	"scratch":         func(r *Renderer) any { return func() *scratch { return r.scratch } },
	"sprig_fail":      func(r *Renderer) any { return r.fail },
}

// unsteady are the functions that give another result each time.
var unsteady = map[string]bool{
	"timestamp": true, "sprig_ago": true, "sprig_randInt": true, "sprig_shuffle": true, "sprig_bcrypt": true, "sprig_htpasswd": true, "sprig_encryptAES": true,
	"sprig_genPrivateKey": true, "sprig_genCA": true, "sprig_genCAWithKey": true, "sprig_genSelfSignedCert": true, "sprig_genSelfSignedCertWithKey": true,
	"sprig_genSignedCert": true, "sprig_genSignedCertWithKey": true,
}

// builtin are text/template's own.
var builtin = map[string]bool{
	"and": true, "or": true, "not": true, "len": true, "index": true, "slice": true, "call": true, "html": true, "js": true, "urlquery": true,
	"print": true, "printf": true, "println": true, "eq": true, "ne": true, "lt": true, "le": true, "gt": true, "ge": true,
}

// refused are Vault Agent's functions that the agent does not have, with what
// to do instead.
var refused = func() map[string]string {
	m := map[string]string{
		"plugin":      "runs programs, which the agent does not (keep what the program makes in Vault, or make it in the app)",
		"writeToFile": "writes a file while a template is rendered (make it an entry of its own, whose files change together)",
	}
	for _, name := range []string{"spew_dump", "spew_printf", "spew_sdump", "spew_sprintf"} {
		m[name] = "prints values for debugging (toJSONPretty shows what a secret holds)"
	}
	for _, name := range []string{
		"byKey", "byMeta", "byPort", "byTag", "caLeaf", "caRoots", "connect", "datacenters", "explode", "exportedServices", "importedServices", "key", "keyExists", "keyOrDefault",
		"ls", "node", "nodes", "partitions", "peerings", "safeLs", "safeTree", "service", "services", "tree",
	} {
		m[name] = "asks Consul, which the agent does not (keep the value in Vault; a Service's DNS name finds other pods)"
	}
	for _, name := range []string{"nomadService", "nomadServices", "nomadVar", "nomadVarExists", "nomadVarList", "nomadVarListSafe"} {
		m[name] = "asks Nomad, which the agent does not (keep the value in Vault)"
	}
	return m
}()

// sprigPrefix comes before the names of sprig's functions, of which those that
// look at the clock, the environment or the network are left out, as in Vault
// Agent.
const sprigPrefix = "sprig_"

var sprigFunctions = sync.OnceValue(sprig.HermeticTxtFuncMap)

// function returns what a name stands for beside text/template's own, or nil.
func (r *Renderer) function(name string) any {
	if f, ok := functions[name]; ok {
		return f
	}
	if bind, ok := bound[name]; ok {
		return bind(r)
	}
	if name == "index" && !r.file.AllowMissingKeys {
		return r.index
	}
	if short, ok := strings.CutPrefix(name, sprigPrefix); ok {
		return sprigFunctions()[short]
	}
	return nil
}

// checkFunction says what is wrong with a call of a name.
func checkFunction(name string) error {
	if why, ok := refused[name]; ok {
		return fmt.Errorf("function %q %s", name, why)
	}
	_, pure := functions[name]
	_, binds := bound[name]
	short, isSprig := strings.CutPrefix(name, sprigPrefix)
	if builtin[name] || pure || binds || isSprig && sprigFunctions()[short] != nil {
		return nil
	}
	// Sprig's functions have other names elsewhere: Helm's are without the prefix.
	for _, meant := range []string{name, sprigPrefix + name} {
		for _, known := range Functions() {
			if strings.EqualFold(known, meant) {
				return fmt.Errorf("function %q not defined (did you mean %q?)", name, known)
			}
		}
	}
	return fmt.Errorf("function %q not defined", name)
}

// Functions are the names of the template functions beside text/template's own,
// sorted.
func Functions() []string {
	names := slices.Concat(slices.Collect(maps.Keys(functions)), slices.Collect(maps.Keys(bound)))
	for short := range sprigFunctions() {
		names = append(names, sprigPrefix+short)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
