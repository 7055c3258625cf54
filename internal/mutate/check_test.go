package mutate

import (
	"strings"
	"testing"
)

// Whatever lies where the files would go is named, however its path is written.
func TestTakenMountPaths(t *testing.T) {
	for container, want := range map[string]string{
		`"volumeMounts":[{"name":"v","mountPath":"/vault/./secrets//"}]`:       `volume "v" is mounted at "/vault/secrets" already`,
		`"volumeMounts":[{"name":"v","mountPath":"/vault/secrets/tls"}]`:       `volume "v" is mounted at "/vault/secrets/tls" already`,
		`"volumeDevices":[{"name":"disk","devicePath":"/vault/secrets/disk"}]`: `device "disk" is mounted at "/vault/secrets/disk" already`,
		`"volumeMounts":[{"name":"v","mountPath":"/vault/secrets-of-others"}]`: "",
	} {
		pod := `{"metadata":{"annotations":{"latchkey.dev/inject":"true","latchkey.dev/role":"app","latchkey.dev/files":"[{path: a, template: b}]"}},"spec":{"containers":[{"name":"app",` + container + `}]}}`
		out := Mutate(NewPod("shop", []byte(pod)), DefaultConfig())
		if told := strings.Join(out.Problems, "\n"); (out.Decision == Denied) != (want != "") || !strings.Contains(told, want) {
			t.Errorf("%s: %s, %q; want %q", container, out.Decision, told, want)
		}
	}
}
