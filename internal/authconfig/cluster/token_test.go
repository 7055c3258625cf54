package cluster

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

var issued = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func jwtOf(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".signature"
}

func jwtFor(life time.Duration) string {
	return jwtOf(fmt.Sprintf(`{"iat":%d,"exp":%d}`, issued.Unix(), issued.Add(life).Unix()))
}

func TestToken(t *testing.T) {
	c, w := newWorld(t)
	var asked authenticationv1.TokenRequestSpec
	answer := authenticationv1.TokenRequestStatus{}
	w.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		create := a.(clienttesting.CreateActionImpl)
		if a.GetSubresource() != "token" || a.GetNamespace() != "lk" || create.Name != "latchkey-reviewer" {
			t.Errorf("call %+v", a)
		}
		asked = create.Object.(*authenticationv1.TokenRequest).Spec
		return true, &authenticationv1.TokenRequest{Status: answer}, nil
	})

	answer.Token = jwtFor(30 * time.Minute)
	got, err := c.Token(t.Context(), "lk/latchkey-reviewer", "", time.Hour, &Secret{Name: "latchkey-reviewer-a", UID: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	if got.JWT.Reveal() != answer.Token || !got.Issued.Equal(issued) || !got.Expires.Equal(issued.Add(30*time.Minute)) {
		t.Errorf("what counts is what the API server granted: %+v", got)
	}
	if b := asked.BoundObjectRef; *asked.ExpirationSeconds != 3600 || len(asked.Audiences) != 0 || b == nil ||
		b.Kind != "Secret" || b.APIVersion != "v1" || b.Name != "latchkey-reviewer-a" || b.UID != "u1" {
		t.Errorf("asked for %+v", asked)
	}

	// An API server that extends the token's own life does not mean to.
	answer = authenticationv1.TokenRequestStatus{Token: jwtFor(365 * 24 * time.Hour), ExpirationTimestamp: metav1.NewTime(issued.Add(time.Hour))}
	got, err = c.Token(t.Context(), "lk/latchkey-reviewer", "vault", 10*time.Minute, nil)
	if err != nil || !got.Expires.Equal(issued.Add(time.Hour)) {
		t.Errorf("got %+v, %v", got, err)
	}
	if asked.BoundObjectRef != nil || len(asked.Audiences) != 1 || asked.Audiences[0] != "vault" {
		t.Errorf("asked for %+v", asked)
	}

	for _, bad := range []string{"", "s3cr3t", "a.s3cr3t.c", jwtOf("s3cr3t"), jwtOf(`{"iat":"s3cr3t"}`), jwtOf(`{"iat":5}`)} {
		answer = authenticationv1.TokenRequestStatus{Token: bad}
		_, err := c.Token(t.Context(), "lk/latchkey-reviewer", "", time.Hour, nil)
		wantError(t, err, "requesting a token of ServiceAccount lk/latchkey-reviewer: ", "no JWT with iat and exp")
		if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the answer is in the error: %v", err)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want []string
	}{
		"no account": {apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, "latchkey-reviewer"),
			[]string{"make it, as the chart does, or set reviewer.create"}},
		"no Secret": {apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "latchkey-reviewer-a"),
			[]string{"somebody has deleted the Secret that it was to be bound to"}},
		"no right": {apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, "latchkey-reviewer",
			errors.New(`User "x" cannot create resource "serviceaccounts/token" in API group "" in the namespace "lk"`)),
			[]string{"a Role in namespace lk", "resources [serviceaccounts/token], resourceNames [latchkey-reviewer], verbs [create]"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, w := newWorld(t)
			w.react("create", "serviceaccounts", tt.err)
			_, err := c.Token(t.Context(), "lk/latchkey-reviewer", "", time.Hour, &Secret{Name: "latchkey-reviewer-a"})
			wantError(t, err, append(tt.want, "requesting a token of ServiceAccount lk/latchkey-reviewer: ")...)
		})
	}
}

// apiServer is one over TLS that answers with what handle writes. Its client is
// authconfig's, with a token of its own as in a pod.
func apiServer(t *testing.T, handle http.HandlerFunc) *Client {
	s := httptest.NewTLSServer(handle)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("authconfig's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(&rest.Config{Host: s.URL, BearerToken: "authconfig's own", BearerTokenFile: file,
		ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON}, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}, Settings{Namespace: "lk"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeStatus(w http.ResponseWriter, s metav1.Status) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.Code))
	_ = json.NewEncoder(w).Encode(s)
}

func TestReview(t *testing.T) {
	const client = "client-s3cr3t"
	good := authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"vault"}}
	for name, tt := range map[string]struct {
		reviewer, audience string
		status             authenticationv1.TokenReviewStatus
		refuse             *apierrors.StatusError
		want               string // empty: it passes
	}{
		"good":                     {"reviewer-s3cr3t", "vault", good, nil, ""},
		"the API server's own":     {"reviewer-s3cr3t", "", authenticationv1.TokenReviewStatus{Authenticated: true}, nil, ""},
		"no reviewer":              {"", "vault", good, nil, "the reviewer's token is empty"},
		"reviewer not accepted":    {"reviewer-s3cr3t", "vault", good, apierrors.NewUnauthorized("Unauthorized"), "the API server does not accept the reviewer's token"},
		"reviewer may not":         {"reviewer-s3cr3t", "vault", good, apierrors.NewForbidden(schema.GroupResource{Resource: "tokenreviews"}, "", errors.New("no")), "bind its ServiceAccount to the ClusterRole system:auth-delegator"},
		"API server away":          {"reviewer-s3cr3t", "vault", good, away, "unable to handle the request"},
		"client not accepted":      {"reviewer-s3cr3t", "vault", authenticationv1.TokenReviewStatus{Error: "token has been invalidated"}, nil, `does not accept the client's token for the audience "vault": token has been invalidated`},
		"an error with the token":  {"reviewer-s3cr3t", "", authenticationv1.TokenReviewStatus{Error: "bad token " + client}, nil, "does not accept the client's token: it does not say why"},
		"another audience":         {"reviewer-s3cr3t", "vault", authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"api"}}, nil, `the client's token is for the audience "vault", but for ["api"]`},
		"blind to audiences":       {"reviewer-s3cr3t", "vault", authenticationv1.TokenReviewStatus{Authenticated: true}, nil, `does not say that the client's token is for the audience "vault"`},
		"not accepted, no message": {"reviewer-s3cr3t", "", authenticationv1.TokenReviewStatus{}, nil, "it does not say why"},
	} {
		t.Run(name, func(t *testing.T) {
			c := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
					t.Errorf("%s %s", r.Method, r.URL)
				}
				if got := r.Header.Get("Authorization"); got != "Bearer "+tt.reviewer {
					t.Errorf("the caller is %q", got)
				}
				if tt.refuse != nil {
					writeStatus(w, tt.refuse.Status())
					return
				}
				var review authenticationv1.TokenReview
				if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
					t.Error(err)
				}
				if s := review.Spec; s.Token != client || strings.Join(s.Audiences, ",") != tt.audience {
					t.Errorf("asked %+v", s)
				}
				review.Status = tt.status
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(review)
			})
			err := c.Review(t.Context(), sealed.Of(tt.reviewer), sealed.Of(client), tt.audience)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, "reviewing a client's token with the reviewer's: ", tt.want)
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("a token is in the error: %v", err)
			}
		})
	}
}
