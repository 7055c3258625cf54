package desired

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/suggest"
)

// roleName is what a role's path in Vault may end with. Source:
// framework.GenericNameRegex of Vault's sdk.
var roleName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

const (
	// maxTold is how many problems of one key are told.
	maxTold = 20
	// maxKeys and maxRole, in bytes, bound what one ConfigMap costs everybody: its
	// megabyte can be a quarter of a million keys, or one value that takes a
	// hundred times its size to read.
	maxKeys = 4096
	maxRole = 64 << 10
)

// place is a key of a ConfigMap.
type place struct{ source, key string }

// Parse reads the roles of all sources. Those of a key with a problem are not in
// the result, and are to stay as they are (see Roles.Untouched).
func Parse(sources []ConfigMap, d Defaults) Roles {
	r := Roles{Roles: make(map[string]Role), Complete: true}
	claims := claimed(sources, d)
	for _, m := range sources {
		if m.Missing {
			r.Complete = false
			r.add(place{m.Source.String(), ""}, "", missing(m))
			continue
		}
		if m.tooMany() {
			r.add(place{m.Source.String(), ""}, "", fmt.Sprintf("has %d keys (at most %d); its roles stay as they are", len(m.Data)+len(m.Binary), maxKeys))
			continue
		}
		for _, key := range m.keys() {
			at, name := place{m.Source.String(), key}, strings.ToLower(key)
			if problem := refused(m.Source, key, d); problem != "" {
				r.add(at, "", problem)
				continue
			}
			fields, problems := parseKey(&m, key, d)
			if rival := rivalled(at, claims[name]); rival != "" {
				problems = append(problems, rival)
			}
			if len(problems) == 0 {
				r.Roles[name] = Role{Source: at.source, Key: key, Fields: fields}
			}
			r.add(at, name, problems...)
		}
	}
	return r
}

func (r *Roles) add(at place, role string, problems ...string) {
	for i, problem := range problems {
		if i == maxTold {
			problem = fmt.Sprintf("and %d problems more", len(problems)-maxTold)
		}
		r.Problems = append(r.Problems, Problem{Source: at.source, Key: at.key, Role: role, Text: problem})
		if i == maxTold {
			return
		}
	}
}

func missing(m ConfigMap) string {
	if m.Why != "" {
		return m.Why + "; its roles stay as they are"
	}
	return "is not there; its roles stay as they are (to remove them, leave it empty)"
}

func (m *ConfigMap) tooMany() bool { return len(m.Data)+len(m.Binary) > maxKeys }

// keys are those of data and of binaryData, in order.
func (m *ConfigMap) keys() []string {
	keys := slices.AppendSeq(slices.Clone(m.Binary), maps.Keys(m.Data))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// claimed says which keys ask for a role, by its name in lower case. Those that
// may not have the name do not count: one ConfigMap cannot hinder another.
func claimed(sources []ConfigMap, d Defaults) map[string][]place {
	claims := make(map[string][]place)
	for _, m := range sources {
		if m.Missing || m.tooMany() {
			continue
		}
		for _, key := range m.keys() {
			if refused(m.Source, key, d) == "" {
				name := strings.ToLower(key)
				claims[name] = append(claims[name], place{m.Source.String(), key})
			}
		}
	}
	return claims
}

// rivalled says which other key asks for the same role as the one at a place, if
// one does.
func rivalled(at place, claims []place) string {
	if len(claims) < 2 {
		return ""
	}
	i := slices.IndexFunc(claims, func(p place) bool { return p != at })
	if i < 0 {
		return "stands more than once (one source for each ConfigMap, each key once)"
	}
	return fmt.Sprintf("key %s of ConfigMap %s asks for the same role (one of both; Vault ignores case)", claims[i].key, claims[i].source)
}

// refused says why no role of a source can have a name, if it cannot.
func refused(src Source, key string, d Defaults) string {
	name := strings.ToLower(key)
	switch {
	case strings.Contains(key, ".."):
		return "has .. in it, which Vault takes in no path (another name)"
	case !roleName.MatchString(key):
		return "is no name of a role (letters, digits, _, - and ., with neither - nor . at the ends)"
	case slices.Contains(d.Reserved, name):
		return "is a role of authconfig's own (another name)"
	case !strings.HasPrefix(name, strings.ToLower(src.RolePrefix)):
		return fmt.Sprintf("is not for roles of this ConfigMap (names that begin with %s)", src.RolePrefix)
	}
	return ""
}

// parseKey reads the role of one key, or says everything that is wrong with it.
func parseKey(m *ConfigMap, key string, d Defaults) (Fields, []string) {
	if slices.Contains(m.Binary, key) {
		return nil, []string{"is in binaryData (data, as JSON or YAML)"}
	}
	if n := len(m.Data[key]); n > maxRole {
		return nil, []string{fmt.Sprintf("has %d bytes (at most %d)", n, maxRole)}
	}
	return parseRole(m.Data[key], m.Source, d)
}

// parseRole reads one role, or says everything that is wrong with it.
func parseRole(text string, src Source, d Defaults) (Fields, []string) {
	doc, err := readDocument(text)
	if err != nil {
		return nil, []string{err.Error()}
	}
	fields, problems, bad := readFields(doc, d)
	problems = append(problems, guard(src, fields, bad)...)
	if d.MountType == JWT {
		problems = append(problems, untranslatable(fields, bad)...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if d.MountType == JWT {
		fields = translate(fields)
	}
	return fields, nil
}

// readFields reads the values of a role. Bad are the fields that have one that
// cannot be.
func readFields(doc map[string]any, d Defaults) (fields Fields, problems []string, bad map[string]bool) {
	bad = make(map[string]bool)
	fields = make(Fields, len(roleFields))
	known := make(map[string]bool)
	var names []string
	for _, f := range roleFields {
		names = append(names, f.name)
		known[f.name] = true
		if f.twin != "" {
			known[f.twin] = true
		}
		name := f.name
		v, ok := doc[f.name]
		if old, there := doc[f.twin]; there && f.twin != "" {
			if ok {
				problems = append(problems, fmt.Sprintf("%s: is the old name of %s, which is there too (%[2]s alone)", f.twin, f.name))
				bad[f.name] = true
			} else {
				name, v, ok = f.twin, old, true
			}
		}
		fields[f.name] = f.value()
		if f.name == "audience" && !ok {
			fields[f.name] = d.Audience
		}
		if !ok {
			continue
		}
		read, err := f.kind.read(v)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v (%s)", name, err, f.kind.allowed))
			bad[f.name] = true
			continue
		}
		fields[f.name] = read
	}
	all := strings.Join(names, ", ")
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if known[name] {
			continue
		}
		hint := ""
		if len(problems) < maxTold { // to look for one takes long
			hint = suggest.DidYouMean(name, slices.Sorted(maps.Keys(known)))
		}
		if hint == "" {
			hint, all = all, "as above" // they are many
		}
		problems = append(problems, fmt.Sprintf("%s: unknown field (%s)", quote(name), hint))
	}
	return fields, problems, bad
}
