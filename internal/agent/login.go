package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api/auth/kubernetes"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// login logs in with the ServiceAccount token that lies in its file now: the
// kubelet rotates it, so nothing of an earlier login is used again.
func (a *Agent) login(ctx context.Context) (*session, error) {
	auth := a.config.Vault.Auth
	mount := strings.Trim(strings.TrimPrefix(strings.Trim(auth.Mount, "/"), "auth/"), "/")
	doing := fmt.Sprintf("logging in to %s at auth/%s with role %q", a.config.Vault.Address, mount, auth.Role)
	raw, err := os.ReadFile(auth.TokenPath)
	if err != nil {
		return nil, &Problem{Text: fmt.Sprintf("%s: reading the ServiceAccount token: %v (the kubelet writes it)", doing, err)}
	}
	jwt := strings.TrimSpace(string(raw))
	if jwt == "" {
		return nil, &Problem{Text: fmt.Sprintf("%s: the ServiceAccount token in %s is empty (the kubelet writes it)", doing, auth.TokenPath)}
	}
	who := readClaims(jwt)
	doing += " as " + who.String()

	if err := a.connect(); err != nil {
		return nil, err
	}
	client, err := newClient(a.config.Vault, a.transport, a.loginNamespace(), sealed.Value[string]{})
	if err != nil {
		return nil, err
	}
	method, err := kubernetes.NewKubernetesAuth(auth.Role, kubernetes.WithMountPath(mount), kubernetes.WithServiceAccountToken(jwt))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	e := &exchange{keepBody: true, hide: sealed.Of(jwt)}
	answer, err := method.Login(watch(ctx, e), client)
	if err != nil {
		p := classify(doing, err, e)
		p.judgeLogin(auth, who)
		return nil, p
	}
	switch {
	case answer == nil || answer.Auth == nil && answer.WrapInfo == nil:
		return nil, &Problem{Text: fmt.Sprintf("%s: answered %d without a token", doing, e.status)}
	case answer.WrapInfo != nil:
		return nil, &Problem{Text: doing + ": answered with a wrapped token that nobody asked for (is something between agent and Vault?)"}
	case answer.Auth.MFARequirement != nil:
		return nil, &Problem{Act: true, Text: doing + ": Vault asks for a second factor, which a pod has not (take the mount out of the login MFA enforcement)"}
	case answer.Auth.ClientToken == "":
		return nil, &Problem{Text: doing + ": answered with an empty token"}
	}
	// The library's type lacks these two.
	var more struct {
		Auth struct {
			TokenType string `json:"token_type"`
			NumUses   int    `json:"num_uses"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(e.body.Reveal(), &more); err != nil {
		return nil, &Problem{Text: doing + ": the answer is no JSON"}
	}
	now, ttl := time.Now(), grant(answer.Auth)
	s := &session{
		token: sealed.Of(answer.Auth.ClientToken),
		life: life{
			Batch:     more.Auth.TokenType == "batch",
			Renewable: answer.Auth.Renewable && more.Auth.TokenType != "batch",
			TTL:       ttl,
			Accessor:  answer.Auth.Accessor,
			LoggedIn:  now,
			Granted:   now,
			Expires:   now.Add(ttl),
		},
	}
	if err := a.equip(s); err != nil {
		return nil, err
	}
	if more.Auth.NumUses > 0 {
		if err := s.revoke(ctx); err != nil {
			a.log.Debug("the token of limited uses is not revoked", "reason", err)
		}
		return nil, &Problem{Act: true, Text: fmt.Sprintf("%s: the role gives tokens of %d uses, which an agent that reads again and again cannot work with (set the role's token_num_uses to 0)", doing, more.Auth.NumUses)}
	}
	return s, nil
}

// judgeLogin adds what Vault's kubernetes auth method means by its answers
// (vault-plugin-auth-kubernetes, path_login.go) and who can remedy it.
func (p *Problem) judgeLogin(auth config.Auth, who claims) {
	if p.said == "" && p.status != http.StatusNotFound {
		return
	}
	said := func(text string) bool { return strings.Contains(p.said, text) }
	act, remedy := p.Act, ""
	switch {
	case said("invalid role name"):
		act, remedy = true, fmt.Sprintf("create the role %q at this mount, or correct the pod's role", auth.Role)
	case said("could not load backend configuration"):
		act, remedy = false, "the mount has no configuration yet: write auth/…/config"
	case said("service account name not authorized"):
		act, remedy = true, fmt.Sprintf("add %q to the role's bound_service_account_names", who.name)
	case said("namespace not authorized err="):
		act, remedy = true, "the mount's reviewer must be allowed to read namespaces"
	case said("namespace not authorized"):
		act, remedy = true, fmt.Sprintf("add %q to the role's bound_service_account_namespaces", who.namespace)
	case said("(aud)"):
		act, remedy = true, "the role's audience and the connection's audience must be the same"
	case said("token is expired"):
		act, remedy = false, "the kubelet writes a new one; check the clocks"
	case said("(exp)"), said("(nbf)"), said("(iat)"):
		act, remedy = false, "check the clocks of Vault and the cluster"
	case said("(iss)"):
		act, remedy = true, "correct the mount's issuer, or set its disable_iss_validation"
	case said("failed to get service account"):
		act, remedy = true, "the mount's reviewer must be allowed to read ServiceAccounts"
	case said("Vault is sealed"):
		act, remedy = false, "unseal it"
	case p.status == http.StatusForbidden:
		act, remedy = false, "Vault says this also when it cannot ask the API server; if it lasts, check that the mount exists and is of type kubernetes, its host, CA and reviewer, and the role's bound CIDRs"
	case p.status == http.StatusNotFound:
		act, remedy = true, "enable the kubernetes auth method at this mount, or correct the connection's mount"
	}
	p.Act, p.Denied = act, false
	if remedy != "" {
		p.Text += ": " + remedy
	}
}

// claims are what a ServiceAccount token says about itself. They are read for
// messages only; Vault decides.
type claims struct {
	namespace, name, issuer string
	audience                []string
	expires                 time.Time
	err                     error
}

func (c claims) String() string {
	if c.err != nil {
		return fmt.Sprintf("an unknown ServiceAccount (%v)", c.err)
	}
	return fmt.Sprintf("ServiceAccount %s/%s (aud %q, iss %q, exp %s)", c.namespace, c.name, strings.Join(c.audience, ","), c.issuer, c.expires.UTC().Format(time.RFC3339))
}

func readClaims(jwt string) (c claims) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		c.err = errors.New("the token file holds no JWT")
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var body struct {
		Issuer     string   `json:"iss"`
		Audience   audience `json:"aud"`
		Expires    int64    `json:"exp"`
		Kubernetes struct {
			Namespace      string `json:"namespace"`
			ServiceAccount struct {
				Name string `json:"name"`
			} `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if err != nil || json.Unmarshal(payload, &body) != nil {
		c.err = errors.New("the token file holds a JWT that cannot be read")
		return c
	}
	return claims{
		namespace: body.Kubernetes.Namespace, name: body.Kubernetes.ServiceAccount.Name,
		issuer: body.Issuer, audience: body.Audience, expires: time.Unix(body.Expires, 0),
	}
}

// audience is one string or a list (RFC 7519, section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	err := json.Unmarshal(b, &many)
	*a = many
	return err
}
