package main

import (
	"strings"
	"testing"
)

// What serve cannot do is said before it serves anything.
func TestServeRefusesFlags(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"", 2, "--cert-dir is missing (the directory with tls.crt and tls.key; or --cert-secret"},
		{"--cert-dir tls --cert-secret ca", 2, "--cert-dir and --cert-secret are both given"},
		{"--cert-dir tls --leaf-duration 1h", 2, "--leaf-duration needs --cert-secret"},
		{"--cert-dir tls --ops-client-ca ca.crt", 2, "--ops-client-ca needs --ops-cert-dir"},
		{"--cert-dir tls --ca-duration 1y", 2, `invalid value "1y"`},
		{"--cert-secret ca", 1, `keeping a CA in Secret "ca": reaching the API server as the pod's ServiceAccount: this is no pod of a cluster (use --cert-dir elsewhere)`},
	} {
		code, _, stderr := call(t, "", append([]string{"serve"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("serve %s: exit code %d, want %d and %q:\n%s", c.args, code, c.code, c.stderr, stderr)
		}
	}
}
