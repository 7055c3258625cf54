package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

// injectorProgram is the program that the images are made of.
func injectorProgram() string {
	return filepath.Join(harness.Checkout(), "dist", runtime.GOARCH, "injector")
}

// A checked is what a run of `injector check` came to.
type checked struct {
	code  int
	out   string
	lines map[string]string // by the check's name
}

// runCheck runs the program as on a person's own machine, which can reach Vault
// by its IP address, and sees the cluster through a kubeconfig.
func runCheck(t *testing.T, kubeconfig string, args ...string) checked {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), injectorProgram(), append([]string{"check", "--kubeconfig", kubeconfig}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return parseCheck(cmd.ProcessState.ExitCode(), out.String()+errs.String())
}

func parseCheck(code int, out string) checked {
	c := checked{code: code, out: out, lines: make(map[string]string)}
	for line := range strings.Lines(out) {
		if name, _, ok := strings.Cut(line[min(len(line), 6):], ": "); ok {
			c.lines[name] += strings.TrimSpace(line)
		}
	}
	return c
}

// want looks for a line of one check that begins with a status and has parts.
func (c checked) want(t *testing.T, check, status string, parts ...string) {
	t.Helper()
	line := c.lines[check]
	for _, part := range append([]string{status + " "}, parts...) {
		if !strings.Contains(line, part) {
			t.Errorf("%s: no %q in %q", check, part, line)
		}
	}
	if !strings.HasPrefix(line, status+" ") {
		t.Errorf("%s: %q, want it to begin with %q", check, line, status)
	}
}

// wantOthersOK looks for what failed although it should not have.
func (c checked) wantOthersOK(t *testing.T, except ...string) {
	t.Helper()
	for check, line := range c.lines {
		if strings.HasPrefix(line, "FAIL ") && !slices.Contains(except, check) {
			t.Errorf("this should not have failed: %s", line)
		}
	}
	if want := min(len(except), 1); c.code != want {
		t.Errorf("exit code %d, want %d, in\n%s", c.code, want, c.out)
	}
	if len(except) > 0 {
		t.Logf("with %q to fail:\n%s", except, c.out)
	}
}

// operatorConfig writes an operator's configuration with one connection.
func operatorConfig(t *testing.T, address string, ca []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := fmt.Sprintf("connections:\n  default:\n    address: %s\n    ca: |\n%s", address, indent(6, string(ca)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// vaultFromHere is Vault's address outside the cluster's own DNS.
func vaultFromHere() string {
	if suite.IsBox() {
		return "https://" + cluster.VaultIP + ":8200"
	}
	return suite.VaultAddr
}

// closedPort is an address of this machine at which nothing listens any more.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// foreignCA is a certificate that signed nothing here.
func foreignCA() []byte {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

var wholeCheck = []string{
	"API server", "configuration", "connection default", "login default", "pods",
	"serving certificate", "webhook call", "webhook configuration", "webhook endpoints",
}

func TestCheckFromAKubeconfig(t *testing.T) {
	s := aSpace(t)
	good := operatorConfig(t, vaultFromHere(), suite.VaultCA)
	all := []string{"--config", good, "--namespace", s.Name, "--service-account", "app", "--role", s.Name}

	healthy := untilHealthy(t, func() checked { return runCheck(t, suite.Kubeconfig, all...) })
	t.Logf("a healthy cluster:\n%s", healthy.out)
	healthy.wantOthersOK(t)
	if got := slices.Sorted(maps.Keys(healthy.lines)); !slices.Equal(got, wholeCheck) {
		t.Errorf("checked %q, want %q", got, wholeCheck)
	}
	for _, check := range wholeCheck {
		healthy.want(t, check, "ok")
	}
	healthy.want(t, "login default", "ok", "gets policies default, "+s.Name)
	if said := strings.Join(s.Audit(), "\n"); !strings.Contains(said, "update auth/kubernetes/login") || !strings.Contains(said, "update auth/token/revoke-self") {
		t.Errorf("the token of the check was not taken and revoked:\n%s", said)
	}

	// The address that pods use means nothing here.
	if suite.IsBox() {
		inside := runCheck(t, suite.Kubeconfig, "--connection", "default")
		inside.want(t, "connection default", "-", "vault.vault.svc is a name that only the cluster knows", "kubectl -n latchkey exec deploy/latchkey-injector -- /injector check")
		inside.wantOthersOK(t)
	}

	closed := runCheck(t, suite.Kubeconfig, "--config", operatorConfig(t, "https://"+closedPort(t), suite.VaultCA), "--namespace", s.Name)
	closed.want(t, "connection default", "FAIL", "connection refused", "is Vault running, and is the port right?")
	closed.want(t, "login default", "-", "connection default has to work first")
	closed.wantOthersOK(t, "connection default")

	wrongCA := runCheck(t, suite.Kubeconfig, "--config", operatorConfig(t, vaultFromHere(), foreignCA()))
	wrongCA.want(t, "connection default", "FAIL", "is not of the connection's CA", "the connection's ca must be the bundle that issued it")
	wrongCA.want(t, "login", "-", "--namespace and --service-account say whose login to try")
	wrongCA.wantOthersOK(t, "connection default")

	s.ServiceAccount("other")
	unbound := runCheck(t, suite.Kubeconfig, "--config", good, "--namespace", s.Name, "--service-account", "other", "--role", s.Name)
	unbound.want(t, "login default", "FAIL", "service account name not authorized (403)", `add "other" to the role's bound_service_account_names`)
	unbound.wantOthersOK(t, "login default")

	noRole := runCheck(t, suite.Kubeconfig, "--config", good, "--namespace", s.Name, "--service-account", "app", "--role", "no-such-role")
	noRole.want(t, "login default", "FAIL", `invalid role name "no-such-role" (400)`, `create the role "no-such-role" at this mount`)
	noRole.wantOthersOK(t, "login default")

	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("conections: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := runCheck(t, suite.Kubeconfig, "--config", broken)
	config.want(t, "configuration", "FAIL", `conections: unknown key (did you mean "connections"?)`, "connections: empty")
	config.want(t, "connection", "-", "configuration has to work first")
	config.wantOthersOK(t, "configuration")
}

// untilHealthy runs the check until nothing fails: pods that an earlier test
// left without an agent may not be gone yet.
func untilHealthy(t *testing.T, run func() checked) checked {
	t.Helper()
	return untilChecked(t, "nothing to fail", run, func(c checked) bool { return c.code == 0 })
}

// untilChecked runs the check until it is as wanted: the API server follows
// what changes with a delay that nothing tells.
func untilChecked(t *testing.T, what string, run func() checked, wanted func(checked) bool) checked {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c := run()
		if wanted(c) {
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: exit code %d\n%s", what, c.code, c.out)
		}
	}
}

func TestCheckFindsWhatIsBrokenInTheCluster(t *testing.T) {
	s := aSpace(t)
	config := operatorConfig(t, vaultFromHere(), suite.VaultCA)
	check := func() checked {
		return runCheck(t, suite.Kubeconfig, "--config", config, "--namespace", s.Name, "--service-account", "app", "--role", s.Name)
	}
	untilHealthy(t, check)

	up := without(t, func(ctx context.Context, replicas int32) error {
		return suite.ScaleDeployment(ctx, harness.InstallNamespace, harness.InjectorName, replicas)
	}, 2)
	down := check()
	down.want(t, "webhook endpoints", "FAIL", "Service latchkey/latchkey-injector has no ready endpoint", "it has no pods (is the Deployment scaled to 0",
		"kubectl -n latchkey describe deployment,pods says more")
	down.want(t, "webhook call", "-", "webhook endpoints has to work first")
	down.wantOthersOK(t, "webhook endpoints")
	up()
	untilHealthy(t, check) // the node learns of endpoints later than the API server

	// The end of the test brings the configuration back in any case.
	removed := false
	t.Cleanup(func() {
		if !removed {
			reinstallWebhook(t)
		}
	})
	patch := fmt.Appendf(nil, `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":%q}]`, base64.StdEncoding.EncodeToString(foreignCA()))
	client := suite.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if _, err := client.Patch(t.Context(), harness.InjectorName, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	stale := untilChecked(t, "the API server to follow a changed caBundle", check, func(c checked) bool { return strings.Contains(c.lines["webhook call"], "x509") })
	stale.want(t, "webhook call", "FAIL", "x509: certificate signed by unknown authority", "caBundle in the webhook configuration is not the CA of the certificate that the injector serves")
	stale.want(t, "serving certificate", "FAIL", "that caBundle does not verify")
	stale.wantOthersOK(t, "webhook call", "serving certificate")

	restore := removeWebhook(t)
	removed = true
	missing := check()
	missing.want(t, "webhook configuration", "FAIL", "there is no MutatingWebhookConfiguration latchkey-injector: nothing is injected", "install the chart")
	missing.wantOthersOK(t, "webhook configuration")
	s.Create(pod{name: "missed", annotations: wants(s.Name), script: stay}.String())
	restore()
	missed := check()
	missed.want(t, "pods", "FAIL", "1 of ", "annotated pods were not injected", s.Name+"/missed", "delete them, so that their controller makes them again")
	missed.wantOthersOK(t, "pods")
}

// In a pod the address of Vault that pods use is tried, and the certificate of
// each replica is looked at.
func TestCheckInAPod(t *testing.T) {
	s := aSpace(t)
	config := operatorConfig(t, vaultFromHere(), suite.VaultCA)
	untilHealthy(t, func() checked { return runCheck(t, suite.Kubeconfig, "--config", config) })
	bindCheck(t, s, "checker")
	p := pod{name: "check", spec: "restartPolicy: Never\n"}.String()
	p = strings.Replace(p, "serviceAccountName: app", "serviceAccountName: checker", 1)
	i := strings.Index(p, "    image:")
	s.Create(p[:i] + "    image: " + injectorImage(t) + "\n    imagePullPolicy: IfNotPresent\n    args: [check, --connection, default, --namespace, " +
		s.Name + ", --service-account, app, --role, " + s.Name + "]\n")
	ended := s.WaitPod("check", "ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	c := parseCheck(int(ended.Status.ContainerStatuses[0].State.Terminated.ExitCode), s.Logs("check", "app"))
	t.Logf("\n%s", c.out)
	for _, check := range wholeCheck {
		c.want(t, check, "ok")
	}
	c.want(t, "serving certificate", "ok", "the replica at ", "that caBundle verifies")
	c.wantOthersOK(t)

	// The injector's own pod has no right to ask the API server for anything,
	// and looks at Vault all the same.
	pods, err := suite.Kube.CoreV1().Pods(harness.InstallNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + harness.InjectorName})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("listing the injector's pods: %v", err)
	}
	out, err := suite.Exec(t.Context(), harness.InstallNamespace, pods.Items[0].Name, "injector", "/injector", "check", "--connection", "default")
	if err != nil {
		t.Error(err)
	}
	own := parseCheck(0, out)
	own.want(t, "configuration", "ok", fmt.Sprintf("/etc/latchkey/config/config.yaml has %d connections", 1+len(harness.FaultyConnections)))
	own.want(t, "connection default", "ok", "Vault 1.")
	own.want(t, "API server", "-", "this pod has no ServiceAccount token")
	own.wantOthersOK(t)
}

// injectorImage is the image that the injector runs from.
func injectorImage(t *testing.T) string {
	t.Helper()
	d, err := suite.Kube.AppsV1().Deployments(harness.InstallNamespace).Get(t.Context(), harness.InjectorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Image
}

// bindCheck makes a ServiceAccount that may do all that the check asks for.
func bindCheck(t *testing.T, s *harness.Space, name string) {
	t.Helper()
	s.ServiceAccount(name)
	rule := func(group, resource, verb string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
	}
	roles, bindings := suite.Kube.RbacV1().ClusterRoles(), suite.Kube.RbacV1().ClusterRoleBindings()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: s.Name + "-check"}, Rules: []rbacv1.PolicyRule{
		rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get"),
		rule("discovery.k8s.io", "endpointslices", "list"),
		rule("", "configmaps", "get"),
		rule("", "pods", "list"),
		rule("", "pods", "create"),
		rule("", "serviceaccounts/token", "create"),
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: role.ObjectMeta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.Name, Name: name}},
	}
	t.Cleanup(func() {
		if err := errors.Join(roles.Delete(context.Background(), role.Name, metav1.DeleteOptions{}),
			bindings.Delete(context.Background(), role.Name, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Who may do next to nothing is told what could not be looked at, and why.
func TestCheckNamesMissingPermissions(t *testing.T) {
	s := aSpace(t)
	token, err := suite.Kube.CoreV1().ServiceAccounts(s.Name).CreateToken(t.Context(), "app", &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(suite.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	context := config.Contexts[config.CurrentContext]
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{context.AuthInfo: {Token: token.Status.Token}}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	c := runCheck(t, kubeconfig, "--namespace", s.Name, "--config", operatorConfig(t, vaultFromHere(), suite.VaultCA), "--role", s.Name)
	for check, resource := range map[string]string{
		"webhook configuration": "get mutatingwebhookconfigurations latchkey-injector",
		"webhook endpoints":     "list endpointslices in namespace latchkey",
		"webhook call":          "create pods in namespace " + s.Name,
		"pods":                  "list pods in all namespaces",
		"login default":         "create serviceaccounts/token in namespace " + s.Name,
	} {
		c.want(t, check, "-", "not checked: you may not "+resource)
	}
	c.want(t, "connection default", "ok")
	c.wantOthersOK(t)

	c = runCheck(t, kubeconfig)
	c.want(t, "configuration", "-", "you may not get configmaps latchkey-injector in namespace latchkey; --config names a file instead")
}

// Called kubectl-latchkey the program is a plugin of kubectl.
func TestKubectlPlugin(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(injectorProgram(), filepath.Join(dir, "kubectl-latchkey")); err != nil {
		t.Fatal(err)
	}
	plugin := func(stdin string, args ...string) (out string, code int) {
		cmd := exec.CommandContext(t.Context(), suite.Tool("kubectl"), append([]string{"latchkey"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KUBECONFIG="+suite.Kubeconfig, "KUBECACHEDIR="+dir, "HOME="+dir)
		text, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(text), cmd.ProcessState.ExitCode()
	}
	if out, code := plugin("", "help"); code != 0 || !strings.HasPrefix(out, "Usage: kubectl latchkey COMMAND [FLAGS]") {
		t.Errorf("help: exit code %d\n%s", code, out)
	}
	if out, code := plugin("", "render"); code != 2 || !strings.Contains(out, "kubectl latchkey render: -f is missing") {
		t.Errorf("render: exit code %d\n%s", code, out)
	}
	if out, code := plugin(pod{name: "app", annotations: wants("app")}.String(), "render", "-f", "-"); code != 0 || !strings.Contains(out, "name: latchkey-agent") {
		t.Errorf("render -f -: exit code %d\n%s", code, out)
	}
	// KUBECONFIG is kubectl's.
	out, _ := plugin("", "check", "--config", operatorConfig(t, vaultFromHere(), suite.VaultCA))
	parseCheck(0, out).want(t, "API server", "ok", suite.REST.Host)
}

// What a namespace refuses by its own rules is no fault of the injector, and
// the strictest of them is no hindrance.
func TestCheckInStrictNamespaces(t *testing.T) {
	for name, c := range map[string]struct {
		labels, object, status, says string
	}{
		"restricted": {"pod-security.kubernetes.io/enforce=restricted", "", "ok", "gets its agent"},
		"LimitRange": {"a=b", "apiVersion: v1\nkind: LimitRange\nmetadata: {name: limits}\nspec: {limits: [{type: Container, min: {cpu: 100m}}]}\n", "-", "a LimitRange of namespace "},
		"quota":      {"a=b", "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: quota}\nspec: {hard: {limits.cpu: 1m}}\n", "-", "a ResourceQuota of namespace "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := suite.Space(t, c.labels)
			s.ServiceAccount("app")
			if c.object != "" {
				s.Create(c.object)
			}
			check := func() checked {
				return runCheck(t, suite.Kubeconfig, "--namespace", s.Name, "--service-account", "app", "--config", operatorConfig(t, vaultFromHere(), suite.VaultCA))
			}
			// A quota counts only when its controller has seen it.
			got := untilChecked(t, "the namespace's rules", check, func(got checked) bool { return strings.HasPrefix(got.lines["webhook call"], c.status+" ") })
			got.want(t, "webhook call", c.status, c.says)
		})
	}
}
