package mutate

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

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
	bad := !path.IsAbs(s) || clean == "/" || strings.ContainsAny(s, ":\x00") || slices.Contains(strings.Split(s, "/"), "..")
	for _, taken := range []string{"/proc", "/sys", "/dev", path.Dir(config.TokenPath), config.VolumeDir} {
		bad = bad || clean == taken || strings.HasPrefix(clean, taken+"/")
	}
	if bad {
		return "", fmt.Errorf("%q (an absolute path such as \"/vault/secrets\", not below /proc, /sys, /dev or the ServiceAccount's token)", s)
	}
	return clean, nil
}

var errNoNames = errors.New("empty (names, separated by commas)")
