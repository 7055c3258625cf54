package desired

import (
	"encoding/json"
	"reflect"
)

// Canonical is a role that Vault answered. Fields that it does not know are left
// out, and those that it did not answer have their defaults. Nil stays nil, and
// of a mount of another type nothing is left.
func Canonical(mountType string, raw map[string]any) Fields {
	switch mountType {
	case Kubernetes:
		return canonical(roleFields, raw)
	case JWT:
		return canonical(jwtRoleFields, raw)
	}
	return canonical(nil, raw)
}

// CanonicalConfig is a mount's config that Vault answered, or that is to be
// written. It is like Canonical.
func CanonicalConfig(mountType string, raw map[string]any) Fields {
	switch mountType {
	case Kubernetes:
		return canonical(kubernetesConfigFields, raw)
	case JWT:
		return canonical(jwtConfigFields, raw)
	}
	return canonical(nil, raw)
}

func canonical(table []field, raw map[string]any) Fields {
	if raw == nil {
		return nil
	}
	fields := make(Fields, len(table))
	for _, f := range table {
		fields[f.name] = f.value()
		if v := raw[f.name]; v != nil {
			fields[f.name] = f.canonical(v)
		}
	}
	return fields
}

// canonical is a value that Vault answered. One that nobody could have written
// here is kept in a form that equals no other.
func (f *field) canonical(v any) any {
	if read, err := f.kind.read(v); err == nil {
		return read
	}
	switch v := v.(type) {
	case string:
		return v
	case []any, []string:
		if l, err := elements(v); err == nil {
			return l
		}
	}
	told, err := json.Marshal(v)
	if err != nil {
		return reflect.TypeOf(v).String()
	}
	return string(told)
}

// Equal reports whether two canonical forms mean the same.
func Equal(a, b Fields) bool { return reflect.DeepEqual(a, b) }

// Sent is what of after is written where before is: everything, since Vault
// keeps what a write leaves out, apart from fields that not every Vault knows
// and that are neither to be set nor to be unset.
func Sent(after, before Fields) Fields {
	sent := make(Fields, len(after))
	for name, v := range after {
		if !optional[name] || isSet(v) || isSet(before[name]) {
			sent[name] = v
		}
	}
	return sent
}

// isSet reports whether a value is neither empty nor false.
func isSet(v any) bool {
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Map, reflect.Slice:
		return r.Len() > 0
	}
	return !r.IsZero()
}
