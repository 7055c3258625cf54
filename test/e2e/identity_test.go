package e2e

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// The token that the kubelet wrote is read from the node: the agent's image has
// no shell, and no other container can see it.
func TestIdentityTokenIsForVaultAlone(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), script: readFirst + stay}.String())
	p := s.WaitPod("app", "ready", harness.Ready)

	token := s.ReadFile(p, "latchkey-agent", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	var claims struct {
		Audience  []string `json:"aud"`
		Issued    int64    `json:"iat"`
		Expires   int64    `json:"exp"`
		Subject   string   `json:"sub"`
		NotBefore int64    `json:"nbf"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(string(token), ".")[1])
	if err != nil {
		t.Fatalf("decoding the token: %v", err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatalf("decoding the token: %v", err)
	}
	if len(claims.Audience) != 1 || claims.Audience[0] != "vault" {
		t.Errorf("the token's audience is %q, want only vault", claims.Audience)
	}
	if life := claims.Expires - claims.Issued; life != 600 {
		t.Errorf("the token lives %d s, want 600 s", life)
	}
	if want := "system:serviceaccount:" + s.Name + ":app"; claims.Subject != want {
		t.Errorf("the token's subject is %q, want %q", claims.Subject, want)
	}

	config := rest.AnonymousClientConfig(suite.REST)
	config.BearerToken = string(token)
	asPod, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asPod.CoreV1().Pods(s.Name).List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("listing pods with the token: %v, want Unauthorized", err)
	}
}

func TestIdentityTokenIsMountedInTheAgentAlone(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", annotations: wants(s.Name), spec: `initContainers:
- {name: first, image: "busybox:box", imagePullPolicy: Never, command: ["true"]}
`, script: readFirst + stay}.String())
	p := s.WaitPod("app", "ready", harness.Ready)
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		agent := c.Name == "latchkey-agent"
		for _, m := range c.VolumeMounts {
			if m.Name == "latchkey-identity" && !agent {
				t.Errorf("container %s mounts the identity token at %s", c.Name, m.MountPath)
			}
			if m.Name == "latchkey-secrets" && !agent && m.SubPath != "out" {
				t.Errorf("container %s mounts %q of the agent's volume, where the Vault token lies", c.Name, m.SubPath)
			}
			if strings.HasPrefix(m.Name, "kube-api-access-") && agent {
				t.Errorf("the agent has an API token at %s", m.MountPath)
			}
		}
	}
	if !hasAPIToken(p.Spec.Containers[0]) {
		t.Error("the app lost its API token")
	}
	if out := s.Exec("app", "app", "sh", "-c", "cat /proc/mounts"); strings.Contains(out, "latchkey-identity") || strings.Contains(out, "/run/latchkey") {
		t.Errorf("the app's mounts:\n%s", out)
	}
}

func hasAPIToken(c corev1.Container) bool {
	for _, m := range c.VolumeMounts {
		if strings.HasPrefix(m.Name, "kube-api-access-") {
			return true
		}
	}
	return false
}

// An app of the agent's user, in a process namespace that they share, sees the
// agent's processes come and go and never gets into one: its volume and its
// ServiceAccount's token lie behind /proc/PID/root.
func TestAgentIsClosedToAnAppOfItsUser(t *testing.T) {
	t.Parallel()
	s := aSpace(t)
	s.Create(pod{name: "app", spec: "shareProcessNamespace: true\nsecurityContext: {runAsUser: 1000, runAsGroup: 1000}",
		annotations: filesOf(s, "- {path: app.env, secret: kv/"+s.Name+"/app, format: env}"),
		// The readiness probe is a process of the agent's every five seconds.
		script: `grep -qx agent /proc/[0-9]*/comm && echo seen
end=$(($(date +%s) + 12))
while [ $(date +%s) -lt $end ]; do
  n=0
  while [ $n -lt 200 ]; do
    for p in /proc/[0-9]*; do [ -e $p/root/run/latchkey ] && echo "reached $p"; done
    n=$((n + 1))
  done
done
echo scanned
sleep 86400`}.String())
	s.WaitPod("app", "ready", harness.Ready)
	log := s.WaitLog("app", "app", "scanned")
	if !strings.Contains(log, "seen") || strings.Contains(log, "reached") {
		t.Errorf("want the agent seen and not reached:\n%.500s", log)
	}
}
