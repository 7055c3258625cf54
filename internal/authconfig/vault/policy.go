package vault

import (
	"fmt"
	"regexp"
	"strings"
)

// rule is one line of the published policy.
type rule struct {
	path         string
	capabilities []string
	why          string
}

// rules are what the calls of this package need, for a mount below auth/.
func rules(mount string) []rule {
	return []rule{
		{"sys/auth", []string{"read"}, "Is the mount there, of which type, and is it the one that authconfig made?"},
		{"sys/auth/" + mount, []string{"update", "sudo"}, "Make it."},
		{"sys/mounts/auth/" + mount + "/tune", []string{"update"}, "Its description and the lives of its tokens."},
		{"auth/" + mount + "/config", []string{"read", "update"}, "Where the API server is, and who reviews tokens."},
		{"auth/" + mount + "/role", []string{"list"}, "Which roles are there?"},
		{"auth/" + mount + "/role/+", []string{"create", "read", "update", "delete"}, "Each of them."},
	}
}

func (r rule) String() string {
	return fmt.Sprintf("path %q { capabilities = [\"%s\"] }", r.path, strings.Join(r.capabilities, `", "`))
}

// Policy is the policy of Vault that authconfig needs to keep the mount at a
// path, with or without "auth/", and nothing beyond it.
func Policy(mount string) string {
	mount = MountPath(mount)
	var b strings.Builder
	fmt.Fprintf(&b, "# What authconfig needs to keep auth/%s.\n", mount)
	for _, r := range rules(mount) {
		fmt.Fprintf(&b, "\n# %s\n%s\n", r.why, r)
	}
	return b.String()
}

// lacks says which line of the published policy allows a call.
func (c *Client) lacks(path, capability string) string {
	for _, r := range rules(c.mount) {
		parent, each := strings.CutSuffix(r.path, "+")
		name, below := strings.CutPrefix(path, parent)
		if path != r.path && !(each && below && name != "" && !strings.Contains(name, "/")) {
			continue
		}
		need := fmt.Sprintf("%q", capability)
		if each && capability == "update" {
			need = `"create" where it is new, else "update"`
		}
		if len(r.capabilities) == 2 && r.capabilities[1] == "sudo" {
			need += ` and "sudo"`
		}
		r.path = c.below() + r.path
		return fmt.Sprintf("this needs %s, and authconfig's policy lacks it: %s (see authconfig policy)", need, r)
	}
	return fmt.Sprintf("this needs %q, which authconfig's policy lacks", capability)
}

// below is what the paths of the policy begin with: the namespace of the mount as
// that of the login, which has the policy, sees it.
func (c *Client) below() string {
	login, mount := loginNamespace(c.vault), strings.Trim(c.vault.Namespace, "/")
	if login == "root" {
		login = ""
	}
	rest, ok := strings.CutPrefix(mount+"/", login+"/")
	switch {
	case login == "" && mount != "":
		return mount + "/"
	case ok:
		return rest
	}
	return ""
}

// mountPath is what a path of a mount may be: what a policy takes for itself, and
// nothing that has a meaning in one.
var mountPath = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

// CheckMount says what is wrong with the path of an auth mount.
func CheckMount(mount string) error {
	// Vault takes two dots nowhere in a path.
	if !mountPath.MatchString(MountPath(mount)) || strings.Contains(mount, "..") || strings.Contains("/"+MountPath(mount)+"/", "/./") {
		return fmt.Errorf("mount %q is not a path (letters, digits, \"-\", \"_\" and \".\" between slashes, such as \"kubernetes/staging\")", mount)
	}
	return nil
}
