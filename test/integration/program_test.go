package integration

import (
	"debug/buildinfo"
	"os"
	"strings"
	"testing"

	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// maxProgram is what the agent may weigh, in bytes: every node pulls it.
const maxProgram = 11_000_000

// The agent stays small, and links nothing of Kubernetes.
func TestAgentIsSmall(t *testing.T) {
	program, err := vaulttest.AgentProgram()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the agent has %d bytes", file.Size())
	if file.Size() > maxProgram {
		t.Errorf("the agent has %d bytes (at most %d)", file.Size(), maxProgram)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Fatal("the agent does not say which modules it is made of")
	}
	for _, m := range info.Deps {
		if strings.HasPrefix(m.Path, "k8s.io/") || strings.HasPrefix(m.Path, "sigs.k8s.io/") {
			t.Errorf("the agent links %s", m.Path)
		}
	}
}
