package check

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/mutate"
)

const healthy = `{"initialized":true,"sealed":false,"standby":false,"version":"1.21.0"}`

// answers is a server's answers by method and path. What it is asked beside
// them fails the test.
type answers map[string]func(w http.ResponseWriter, r *http.Request)

func says(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func (a answers) handler(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := a[r.Method+" "+r.URL.Path]
		if !ok {
			t.Errorf("asked %s %s", r.Method, r.URL.Path)
			http.Error(w, "unknown", http.StatusTeapot)
			return
		}
		answer(w, r)
	})
}

// serve runs a Vault with a certificate of the CA, or without TLS.
func serve(t *testing.T, a answers, ca *authority, names ...string) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(a.handler(t))
	if ca == nil {
		server.Start()
	} else {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.serving(t, names)}}
		server.StartTLS()
	}
	server.Config.ErrorLog = nil
	t.Cleanup(server.Close)
	return server.URL
}

func connection(address string, ca *authority, change ...func(*config.Vault)) *mutate.Connection {
	c := &mutate.Connection{Vault: config.Vault{Address: address}}
	if ca != nil {
		c.Vault.CA = string(ca.pem())
	}
	for _, f := range change {
		f(&c.Vault)
	}
	return c
}

func serverName(name string) func(*config.Vault) {
	return func(v *config.Vault) { v.TLSServerName = name }
}

func TestConnection(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "of-the-person")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	health := func(body string, status int) answers {
		return answers{"GET /v1/sys/health": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Vault-Token") != "" {
				t.Error("asked with a token")
			}
			says(status, body)(w, r)
		}}
	}
	good := serve(t, health(healthy, 200), ca, "vault.example")
	plain := serve(t, health(healthy, 200), nil)
	isStandby := strings.Replace(healthy, `"standby":false`, `"standby":true`, 1)
	with := func(body, more string) string { return strings.TrimSuffix(body, "}") + "," + more + "}" }
	standby := func(status int, body string) string {
		a := health(isStandby, 299)
		a["GET /v1/sys/internal/ui/mounts"] = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/v1/sys/internal/ui/mounts")
			says(status, body)(w, r)
		}
		return serve(t, a, nil)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, c := range []struct {
		name       string
		connection *mutate.Connection
		want       string
	}{
		{"good", connection(good, ca, serverName("vault.example")), "ok    : Vault 1.21.0 at " + good},
		{"wrong CA", connection(good, other, serverName("vault.example")), "FAIL  : the certificate of " + good + " is not of the connection's CA: x509: certificate signed by unknown authority"},
		{"system's CA", connection(good, nil, serverName("vault.example")), "FAIL  : the certificate of " + good + " is of no public authority, and the connection has no ca: x509: certificate signed by unknown authority (give the connection a ca"},
		{"wrong name", connection(good, ca, serverName("other.example")), "FAIL  : the certificate of " + good + " is for others: x509: certificate is valid for vault.example, not other.example (set the connection's tlsServerName"},
		{"expired", connection(serve(t, answers{}, newAuthority(t, "old", until(time.Now().Add(-time.Hour))), "x"), nil), "FAIL  : the certificate of "},
		{"refused", connection(closed.URL, nil), "FAIL  : " + closed.URL + " does not listen: dial tcp 127.0.0.1:" + closed.URL[strings.LastIndex(closed.URL, ":")+1:] + ": connect: connection refused (is Vault running"},
		{"no TLS", connection(strings.Replace(plain, "http:", "https:", 1), nil), "FAIL  : https://" + plain[len("http://"):] + " does not speak TLS (begin the connection's address with http://"},
		{"TLS alone", connection(strings.Replace(good, "https:", "http:", 1), nil), "FAIL  : http://" + good[len("https://"):] + " speaks TLS alone (begin the connection's address with https://"},
		{"sealed", connection(serve(t, health(strings.Replace(healthy, `"sealed":false`, `"sealed":true`, 1), 299), nil), nil), "FAIL  : Vault 1.21.0 at http://127.0.0.1:"},
		{"no Vault", connection(serve(t, health("<html>", 200), nil), nil), "FAIL  : what answers at http://127.0.0.1:"},
		{"no Vault either", connection(serve(t, health(`{"status":"up"}`, 200), nil), nil), "FAIL  : what answers at http://127.0.0.1:"},
		{"nor this", connection(serve(t, health(`nope`, 404), nil), nil), "FAIL  : what answers at http://127.0.0.1:"},
		{"standby", connection(standby(200, `{"data":{}}`), nil), "ok    : Vault 1.21.0 at http://127.0.0.1:"},
		{"standby that redirects", connection(standby(307, ""), nil), "FAIL  : http://127.0.0.1:"},
		{"standby that cannot forward", connection(standby(500, `{"errors":["internal error"]}`), nil), "FAIL  : http://127.0.0.1:"},
		{"standby behind something", connection(standby(403, `<html>`), nil), "FAIL  : http://127.0.0.1:"},
	} {
		e := &env{Options: Options{InjectorNamespace: "latchkey"}}
		_, got := e.checkConnection(t.Context(), "default", c.connection)
		want(t, c.name, got, c.want)
	}
	_, got := (&env{}).checkConnection(t.Context(), "default", connection(standby(500, `{"errors":["no active server"]}`), nil))
	want(t, "says why", got, "FAIL ", "is a standby of Vault 1.21.0 that does not forward: no active server (500) (use the address of the active server")
	for name, parts := range map[string][2]string{
		with(healthy, `"replication_dr_mode":"secondary"`):                                                    {" is of a disaster recovery secondary", "the primary cluster"},
		with(strings.Replace(isStandby, `"sealed":false`, `"sealed":true`, 1), `"removed_from_cluster":true`): {" was removed from its cluster", "join"},
		with(isStandby, `"performance_standby":true,"ha_connection_healthy":false`):                           {" has lost the active server", "cluster address"},
		strings.Replace(healthy, `"sealed":false`, `"sealed":true`, 1):                                        {" is sealed", "vault operator unseal"},
		strings.Replace(healthy, `"initialized":true`, `"initialized":false`, 1):                              {" is not initialised", "vault operator init"},
	} {
		_, got := (&env{}).checkConnection(t.Context(), "default", connection(serve(t, health(name, 299), nil), nil))
		want(t, name, got, "FAIL ", parts[0], parts[1])
	}
}

// What is in order for agents of every kind stays so.
func TestHealthyServers(t *testing.T) {
	for _, more := range []string{`"replication_dr_mode":"disabled"`, `"replication_dr_mode":"primary","removed_from_cluster":false`, `"standby":true,"performance_standby":true,"ha_connection_healthy":true`} {
		a := answers{"GET /v1/sys/health": says(200, strings.TrimSuffix(healthy, "}")+","+more+"}")}
		_, got := (&env{}).checkConnection(t.Context(), "default", connection(serve(t, a, nil), nil))
		want(t, more, got, "ok ")
	}
}

// Without a ca it is told whose roots counted: agents may have others.
func TestVerifiedBy(t *testing.T) {
	for _, c := range []struct {
		address string
		ca      string
		inPod   bool
		want    string
	}{
		{"https://vault.example", "", false, ", verified by the roots of this machine, since the connection has no ca: agents have only the public ones of their image"},
		{"https://vault.example", "", true, ", verified by the public roots of this image, since the connection has no ca"},
		{"https://vault.example", "pem", false, ""},
		{"http://vault.example", "", false, ""},
	} {
		if got := verifiedBy(c.address, []byte(c.ca), c.inPod); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestJudgeConnection(t *testing.T) {
	unknown := &url.Error{Op: "Get", URL: "https://x/v1/sys/health", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "x", Err: "no such host", IsNotFound: true}}}
	for _, c := range []struct {
		address string
		err     error
		inPod   bool
		want    string
	}{
		{"https://vault.vault.svc:8200", unknown, false, "-     : not checked: vault.vault.svc is a name that only the cluster knows (run the check there: kubectl -n keys exec deploy/latchkey-injector -- /injector check --connection default)"},
		{"https://vault.vault.svc.cluster.local:8200", unknown, false, "- "},
		{"https://vault:8200", unknown, false, "- "},
		{"https://vault.vault.svc:8200", unknown, true, "FAIL  : https://vault.vault.svc:8200 cannot be reached: the name vault.vault.svc does not resolve"},
		{"https://vault.example.com", unknown, false, "FAIL  : https://vault.example.com cannot be reached: the name vault.example.com does not resolve"},
		{"https://10.0.0.1:8200", &url.Error{Op: "Get", URL: "u", Err: &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}}, true, "FAIL  : https://10.0.0.1:8200 does not answer in time"},
		{"https://10.0.0.1:8200", &url.Error{Op: "Get", URL: "u", Err: errors.New("EOF")}, true, "FAIL  : https://10.0.0.1:8200 cannot be reached: EOF"},
	} {
		e := &env{inPod: c.inPod, Options: Options{InjectorNamespace: "keys"}}
		want(t, c.address, e.judgeConnection("default", connection(c.address, nil), c.err), c.want)
	}
}

const jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"

// asking is a cluster that issues the token.
func asking(t *testing.T, refuse error) *fake.Clientset {
	kube := fake.NewClientset()
	kube.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		request := a.(clienttesting.CreateActionImpl).Object.(*authv1.TokenRequest)
		if a.GetSubresource() != "token" || len(request.Spec.Audiences) != 1 || request.Spec.Audiences[0] != "vault" || *request.Spec.ExpirationSeconds != 600 {
			t.Errorf("asked for %s %+v", a.GetSubresource(), request.Spec)
		}
		request.Status.Token = jwt
		return true, request, refuse
	})
	return kube
}

func TestLogin(t *testing.T) {
	const token = "hvs.of-the-check"
	revoked := 0
	vaultAnswers := answers{
		"GET /v1/sys/health": says(200, healthy),
		"PUT /v1/auth/kubernetes/login": func(w http.ResponseWriter, r *http.Request) {
			var body struct{ Role, JWT string }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.JWT != jwt {
				t.Errorf("login with %q: %v", body.JWT, err)
			}
			switch body.Role {
			case "shop_web":
				says(200, `{"auth":{"client_token":"`+token+`","policies":["default","shop"],"lease_duration":3600}}`)(w, r)
			case "echo":
				says(403, `{"errors":["your token `+jwt+` is bad"]}`)(w, r)
			case "wrapped":
				says(200, `{"wrap_info":{"token":"w"}}`)(w, r)
			default:
				says(400, `{"errors":["invalid role name \"`+body.Role+`\""]}`)(w, r)
			}
		},
		"PUT /v1/auth/token/revoke-self": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Vault-Token") == token {
				revoked++
			}
			w.WriteHeader(http.StatusNoContent)
		},
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "connections: {default: {address: \"" + serve(t, vaultAnswers, nil) + "\", auth: {role: \"{{.Namespace}}_{{.ServiceAccount}}\"}}}"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(o Options, kube *fake.Clientset) string {
		t.Helper()
		o.ConfigFile = file
		e := &env{Options: o, kube: kube, vaults: make(map[string]*vault)}
		results := append(configuration(t.Context(), e), connections(t.Context(), e)...)
		want(t, "before the login", results, "ok ")
		got := logins(t.Context(), e)
		for _, secret := range []string{jwt, token} {
			if strings.Contains(lines(got), secret) {
				t.Errorf("prints a token: %s", lines(got))
			}
		}
		return lines(got)
	}
	for _, c := range []struct {
		name    string
		options Options
		refuse  error
		want    string
	}{
		{"not asked", Options{}, nil, "-     : not checked: --namespace and --service-account say whose login to try\n"},
		{"good", Options{Namespace: "shop", ServiceAccount: "web"}, nil, "ok    login default: ServiceAccount shop/web with role \"shop_web\" at auth/kubernetes gets policies default, shop for 1h0m0s\n"},
		{"no role", Options{Namespace: "shop"}, nil, `FAIL  login default: logging in as ServiceAccount shop/default with role "shop_default" at auth/kubernetes: invalid role name "shop_default" (400) (create the role`},
		{"token comes back", Options{Namespace: "shop", Role: "echo"}, nil, "FAIL  login default: logging in as ServiceAccount shop/default with role \"echo\" at auth/kubernetes: your token [secret] is bad (403) "},
		{"wrapped", Options{Namespace: "shop", Role: "wrapped"}, nil, "FAIL  login default: logging in as "},
		{"no ServiceAccount", Options{Namespace: "shop"}, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, "default"), "FAIL  login default: there is no ServiceAccount shop/default (name another"},
		{"no right", Options{Namespace: "shop"}, apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts/token"}, "default", errors.New("no")), "-     login default: not checked: you may not create serviceaccounts/token in namespace shop\n"},
	} {
		revoked = 0
		got := try(c.options, asking(t, c.refuse))
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %swant %s", c.name, got, c.want)
		}
		if good := strings.HasPrefix(got, "ok "); good != (revoked == 1) {
			t.Errorf("%s: revoked %d tokens", c.name, revoked)
		}
	}
}

func TestConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := &env{Options: Options{ConfigFile: file}}
	write("conections: {}\ndefaults: {refresh: soon}\n")
	want(t, "broken", configuration(t.Context(), e), "FAIL  : "+file+": conections: unknown key (did you mean \"connections\"?) (a running injector keeps the last good one)\n",
		"FAIL  : "+file+": connections: empty", "FAIL  : "+file+": defaults.refresh: ")
	write("a: [")
	want(t, "no YAML", configuration(t.Context(), e), "FAIL  : "+file+": reading YAML")
	write("connections: {a: {address: \"https://a\"}, b: {address: \"https://b\"}}\n")
	want(t, "good", configuration(t.Context(), e), "ok    : "+file+" has 2 connections\n")
	e.Connection = "c"
	want(t, "no such connection", configuration(t.Context(), e), "FAIL  : "+file+" has no connection \"c\" (one of: a, b)\n")
	e = &env{kube: fake.NewClientset(), Options: Options{InjectorNamespace: "latchkey"}}
	want(t, "no ConfigMap", configuration(t.Context(), e), "FAIL  : there is no ConfigMap latchkey/latchkey-injector (install the chart")
	want(t, "no API server", configuration(t.Context(), &env{}), "-     : not checked: there is no API server to ask for it; --config names a file\n")
}
