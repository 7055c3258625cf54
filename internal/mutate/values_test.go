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

// The API server counts the lifetime of tokens in whole seconds, from 10 minutes
// on.
func TestTokenExpiration(t *testing.T) {
	for value, want := range map[string]int64{
		"10m": 600, "600s": 600, "1h0.5m": 3630, "24h": 86400, "600000ms": 600,
		"599s": 0, "600.5s": 0, "86400.000000001s": 0, "24h1s": 0, "-10m": 0, "600": 0, "": 0,
	} {
		var s Spec
		errs := setTokenExpiration(&s, value)
		if s.TokenSeconds != want || (len(errs) == 0) != (want != 0) {
			t.Errorf("%q: %d seconds, %v, want %d", value, s.TokenSeconds, errs, want)
		}
	}
}
