package mutate

import "testing"

// Where the files would hide what a container cannot do without, or be hidden
// themselves, nothing is mounted.
func TestMountPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/vault/secrets":           "/vault/secrets",
		"/vault//secrets/":         "/vault/secrets",
		"/etc/app":                 "/etc/app",
		"/device":                  "/device",
		"/run/secrets/app":         "/run/secrets/app",
		"/run/latchkey":            "/run/latchkey",
		"":                         "",
		"vault/secrets":            "",
		"/":                        "",
		"/.":                       "",
		"/etc":                     "",
		"/etc/":                    "",
		"/vault/../secrets":        "",
		"/..":                      "",
		"/a:b":                     "",
		"/a\x00":                   "",
		"/proc":                    "",
		"/proc/1":                  "",
		"/sys/fs":                  "",
		"/dev":                     "",
		"/dev/shm":                 "",
		"/run/latchkey/volume":     "",
		"/run/latchkey/volume/out": "",
		"/var/run/secrets/kubernetes.io/serviceaccount":   "",
		"/run/secrets/kubernetes.io/serviceaccount":       "",
		"/run/secrets/kubernetes.io/serviceaccount/token": "",
	} {
		got, err := parseMountPath(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", path, got, err, want)
		}
	}
}
