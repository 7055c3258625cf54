package mutate

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Identity is whose ServiceAccount a pod logs in with.
type Identity struct{ Namespace, ServiceAccount string }

var (
	roleField = regexp.MustCompile(`\{\{\s*\.(Namespace|ServiceAccount)\s*\}\}`)
	// roleName is what Vault accepts in the path of a role
	// (framework.GenericNameRegex in Vault's SDK).
	roleName = regexp.MustCompile(`^\w(([\w.-]+)?\w)?$`)
)

// expandRole fills in a role template.
func expandRole(template string, id Identity) (string, error) {
	role := roleField.ReplaceAllStringFunc(template, func(field string) string {
		if strings.Contains(field, "ServiceAccount") {
			return id.ServiceAccount
		}
		return id.Namespace
	})
	if strings.Contains(role, "{{") {
		return "", fmt.Errorf("%q holds an unknown action ({{.Namespace}} and {{.ServiceAccount}})", template)
	}
	return parseRole(role)
}

func parseRole(s string) (string, error) {
	if len(s) > 512 || !roleName.MatchString(s) {
		return "", fmt.Errorf("%q (a role's name: letters, digits, \"_\", and between them \"-\" and \".\")", s)
	}
	return s, nil
}

func parseDuration(s string, least time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q (a number with a unit, such as \"90s\" or \"5m\", at least %s)", s, least)
	}
	if d < least {
		return 0, fmt.Errorf("%s is too short (at least %s)", s, least)
	}
	return d, nil
}

// parseMountPath checks and normalises where apps see the files.
func parseMountPath(s string) (string, error) {
	clean := path.Clean(s)
	bad := !path.IsAbs(s) || clean == "/" || clean == "/etc" || strings.ContainsAny(s, ":\x00") || slices.Contains(strings.Split(s, "/"), "..")
	account := path.Dir(config.TokenPath)
	for _, taken := range []string{"/proc", "/sys", "/dev", account, strings.TrimPrefix(account, "/var"), config.VolumeDir} {
		bad = bad || clean == taken || strings.HasPrefix(clean, taken+"/")
	}
	if bad {
		return "", fmt.Errorf("%q (an absolute path such as \"/vault/secrets\"; not /etc itself, and nothing below /proc, /sys, /dev, the ServiceAccount's token or %s)", s, config.VolumeDir)
	}
	return clean, nil
}

// quantityForm leaves out what resource.ParseQuantity understands beyond it:
// signs, exponents, and sizes that no machine has.
var quantityForm = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$`)

func parseQuantity(s, least string) (resource.Quantity, error) {
	if !quantityForm.MatchString(s) {
		return resource.Quantity{}, fmt.Errorf("%q (a quantity such as \"5m\" of CPU or \"16Mi\" of memory)", shorten(s, 60))
	}
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Cmp(resource.MustParse(least)) < 0 {
		return q, fmt.Errorf("%q is too little (at least %q)", s, least)
	}
	return q, nil
}

var errNoNames = errors.New("empty (names, separated by commas)")

// parseNames reads container names, separated by commas and blanks.
func parseNames(v string) (names []string, errs []error) {
	for _, name := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		switch {
		case len(names) == maxContainers:
			return nil, append(errs, fmt.Errorf("more than %d names (those of containers)", maxContainers))
		case slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("%q stands more than once (each name once)", name))
		default:
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		errs = append(errs, errNoNames)
	}
	return names, errs
}
