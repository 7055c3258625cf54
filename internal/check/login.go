package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/kubernetes"
	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// tokenLife is the life of the ServiceAccount token, in seconds: the shortest
// that the API server grants, and what injected pods get.
const tokenLife = 600

// logins logs in as a pod of the ServiceAccount would.
func logins(ctx context.Context, e *env) []Result {
	if e.Namespace == "" && e.ServiceAccount == "" {
		return notChecked("--namespace and --service-account say whose login to try")
	}
	if e.config == nil {
		return notChecked("which connections there are is not known without the configuration")
	}
	id := mutate.Identity{Namespace: or(e.Namespace, "default"), ServiceAccount: or(e.ServiceAccount, "default")}
	names := slices.Sorted(maps.Keys(e.config.Connections))
	if e.Connection != "" {
		names = []string{e.Connection}
	}
	var results []Result
	for _, name := range names {
		results = append(results, named("login "+name, e.login(ctx, name, id))...)
	}
	return results
}

func (e *env) login(ctx context.Context, name string, id mutate.Identity) []Result {
	v := e.vaults[name]
	if v == nil {
		return notChecked("connection %s has to work first", name)
	}
	annotations := map[string]string{
		mutate.Prefix + "inject":     "true",
		mutate.Prefix + "files":      "[{path: check, template: check}]",
		mutate.Prefix + "connection": name,
	}
	if e.Role != "" {
		annotations[mutate.Prefix+"role"] = e.Role
	}
	// The role and the mount are worked out as for a pod.
	spec, problems := mutate.Parse(annotations, id, e.config)
	if len(problems) > 0 {
		r := notChecked("%s", strings.Join(problems, "; "))
		r[0].Remedy = "--role names a role"
		return r
	}
	auth := spec.Agent.Vault.Auth
	if !auth.UsesServiceAccount() {
		return notChecked("method %s shows what lies in the Secrets of namespace %s that the connection names, which is not read here; an agent that cannot log in says why in an Event of its pod", auth.Method, id.Namespace)
	}
	jwt, refused := e.token(ctx, id, auth.Audience)
	if refused != nil {
		return refused
	}
	mount := auth.MountPath()
	who := fmt.Sprintf("ServiceAccount %s/%s with role %q at auth/%s", id.Namespace, id.ServiceAccount, auth.Role, mount)

	client, err := v.client(or(auth.Namespace, spec.Agent.Vault.Namespace))
	if err != nil {
		return fail("correct the operator's configuration", "%v", err)
	}
	method, err := kubernetes.NewKubernetesAuth(auth.Role, kubernetes.WithMountPath(mount), kubernetes.WithServiceAccountToken(jwt.Reveal()))
	if err != nil {
		return fail("correct the operator's configuration", "logging in as %s: %v", who, err)
	}
	calling, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := method.Login(calling, client)
	if err != nil {
		return judgeLogin(err, who, jwt, vaulterr.Login{
			Method: auth.Method, Role: auth.Role, Namespace: id.Namespace, ServiceAccount: id.ServiceAccount, Audience: auth.Audience,
		})
	}
	switch {
	case answer == nil || answer.Auth == nil:
		return fail("is something between here and Vault?", "logging in as %s: the answer holds no token", who)
	case answer.Auth.MFARequirement != nil:
		return fail("take the mount out of the login MFA enforcement", "logging in as %s: Vault asks for a second factor, which a pod has not", who)
	case answer.Auth.ClientToken == "":
		return fail("is something between here and Vault?", "logging in as %s: the answer holds no token", who)
	}
	ttl := time.Duration(answer.Auth.LeaseDuration) * time.Second
	text := fmt.Sprintf("%s gets policies %s for %s", who, strings.Join(answer.Auth.Policies, ", "), ttl)
	// The token goes even if the time of the checks is over.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancelLast()
	client.SetToken(answer.Auth.ClientToken)
	if err := client.Auth().Token().RevokeSelfWithContext(last, ""); err != nil {
		text += "; the token of this check could not be revoked, and lives as long"
	}
	return ok("%s", text)
}

// token asks the API server for a token of the ServiceAccount.
func (e *env) token(ctx context.Context, id mutate.Identity, audience string) (jwt sealed.Value[string], refused []Result) {
	life := int64(tokenLife)
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &life}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	got, err := e.kube.CoreV1().ServiceAccounts(id.Namespace).CreateToken(ctx, id.ServiceAccount, request, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return jwt, fail("name another with --namespace and --service-account", "there is no ServiceAccount %s/%s", id.Namespace, id.ServiceAccount)
	case err != nil:
		return jwt, unread(err, "create", "serviceaccounts/token in namespace "+id.Namespace)
	}
	return sealed.Of(got.Status.Token), nil
}

// judgeLogin says why Vault refused a login and who can remedy it.
func judgeLogin(err error, who string, jwt sealed.Value[string], about vaulterr.Login) []Result {
	doing := "logging in as " + who
	var response *api.ResponseError
	switch {
	case errors.As(err, new(vaultconn.Redirected)):
		return fail("use the address of the active server, or let standbys forward", "%s: a standby sends elsewhere", doing)
	case errors.As(err, new(*json.SyntaxError)):
		return fail("is something between here and Vault?", "%s: the answer is none of Vault's", doing)
	case !errors.As(err, &response):
		return fail("is Vault busy?", "%s: %v", doing, rootCause(err))
	case response.RawError:
		return fail("is something between here and Vault?", "%s: answered %d with what is no answer of Vault", doing, response.StatusCode)
	}
	said := strings.Join(response.Errors, "; ")
	if secret := jwt.Reveal(); secret != "" {
		said = strings.ReplaceAll(said, secret, sealed.Placeholder)
	}
	_, remedy := about.Advise(response.StatusCode, said)
	return fail(or(remedy, "see Vault's log"), "%s: %s (%d)", doing, said, response.StatusCode)
}
