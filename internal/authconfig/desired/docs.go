package desired

import (
	"fmt"
	"strings"
)

// FieldDocs is the fields of a role as a table in Markdown.
func FieldDocs() string {
	var b strings.Builder
	b.WriteString("| field | old name | value | default | what it does | on a mount of type `jwt` |\n|---|---|---|---|---|---|\n")
	for _, f := range roleFields {
		twin, jwt := "", f.jwt
		if f.twin != "" {
			twin = "`" + f.twin + "`"
		}
		if jwt == "" {
			jwt = "the same"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", f.name, twin, f.kind.allowed, f.documented(), f.doc, jwt)
	}
	return b.String()
}

// documented is what the field is where nobody wrote it, for people.
func (f *field) documented() string {
	switch f.name {
	case "bound_service_account_names", "token_policies":
		return "none: required"
	case "bound_service_account_namespaces":
		return "none: required without a selector"
	case "audience":
		return "authconfig's own"
	}
	if v := f.value(); isSet(v) {
		return fmt.Sprintf("`%v`", v)
	} else if n, ok := v.(int64); ok {
		return fmt.Sprint(n)
	} else if _, ok := v.(bool); ok {
		return "false"
	}
	return "none"
}
