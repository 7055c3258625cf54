package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/rest"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// Token implements API. The API server grants no life under ten minutes, and may
// grant a shorter one than was asked for: what counts is in the answer.
func (c *Client) Token(ctx context.Context, account, audience string, life time.Duration, bound *Secret) (Token, error) {
	namespace, name, _ := strings.Cut(account, "/")
	seconds := int64(life / time.Second)
	spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	if bound != nil {
		spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			Kind: "Secret", APIVersion: "v1", Name: bound.Name, UID: types.UID(bound.UID)}
	}
	t, err := c.kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err == nil {
		var token Token
		if token, err = readToken(t.Status); err == nil {
			return token, nil
		}
	}
	if apierrors.IsNotFound(err) {
		err = fmt.Errorf("%w%s", err, notFoundRemedy(err, bound))
	}
	err = rule{verb: "create", resource: "serviceaccounts/token", namespace: namespace, name: name}.missing(err)
	return Token{}, fmt.Errorf("requesting a token of ServiceAccount %s: %w", account, err)
}

// notFoundRemedy tells which of the two is not there.
func notFoundRemedy(err error, bound *Secret) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		if d := status.Status().Details; bound != nil && d != nil && d.Kind == "secrets" {
			return ": somebody has deleted the Secret that it was to be bound to"
		}
	}
	return " (make it, as the chart does, or set reviewer.create)"
}

func readToken(s authenticationv1.TokenRequestStatus) (Token, error) {
	_, rest, _ := strings.Cut(s.Token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	var claims struct {
		IssuedAt int64 `json:"iat"`
		Expires  int64 `json:"exp"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Expires <= claims.IssuedAt {
		// What the parsers say could quote the token.
		return Token{}, errors.New("the API server's answer is no JWT with iat and exp")
	}
	t := Token{JWT: sealed.Of(s.Token), Issued: time.Unix(claims.IssuedAt, 0).UTC(), Expires: time.Unix(claims.Expires, 0).UTC()}
	// An API server with --service-account-extend-token-expiration may put a
	// later time into the token than it promises.
	if promised := s.ExpirationTimestamp.UTC(); !s.ExpirationTimestamp.IsZero() && promised.Before(t.Expires) {
		t.Expires = promised
	}
	return t, nil
}

// Review implements API.
func (c *Client) Review(ctx context.Context, reviewer, client sealed.Value[string], audience string) error {
	if err := c.review(ctx, reviewer, client, audience); err != nil {
		return fmt.Errorf("reviewing a client's token with the reviewer's: %w", err)
	}
	return nil
}

func (c *Client) review(ctx context.Context, reviewer, client sealed.Value[string], audience string) error {
	if reviewer.Reveal() == "" {
		return errors.New("the reviewer's token is empty") // the call would be an anonymous one
	}
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = reviewer.Reveal()
	api, err := authenticationclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making API client: %w", err)
	}
	spec := authenticationv1.TokenReviewSpec{Token: client.Reveal()}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	r, err := api.TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: spec}, metav1.CreateOptions{})
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not accept the reviewer's token (it has expired, what it is bound to was deleted, or it is not for the API server's audience): %w", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the reviewer may not review tokens (bind its ServiceAccount to the ClusterRole system:auth-delegator): %w", err)
	case err != nil:
		return err
	case !r.Status.Authenticated:
		why := "it does not say why"
		if s := r.Status.Error; s != "" && !strings.Contains(s, client.Reveal()) {
			why = s
		}
		return fmt.Errorf("the API server does not accept the client's token%s: %s", forAudience(audience), why)
	case audience != "" && !slices.Contains(r.Status.Audiences, audience):
		// Vault refuses such an answer too.
		return fmt.Errorf("the API server does not say that the client's token is%s, but for %q", forAudience(audience), r.Status.Audiences)
	}
	return nil
}

func forAudience(audience string) string {
	if audience == "" {
		return ""
	}
	return fmt.Sprintf(" for the audience %q", audience)
}
