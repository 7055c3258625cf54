package vaulttest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Namespace and Audience are what all identities of the tests share.
const (
	Namespace = "shop"
	Audience  = "vault"
)

// An APIServer is as much of Kubernetes as Vault's auth methods ask: it makes
// ServiceAccount tokens and reviews them.
type APIServer struct {
	// URL is where it answers TokenReviews, with a certificate of CA (PEM).
	URL, CA string
	// PublicKey verifies its tokens (PEM), for auth method jwt.
	PublicKey string

	t   testing.TB
	key *ecdsa.PrivateKey

	mu      sync.Mutex
	tokens  map[string]identity // all that were made
	refused bool
}

type identity struct {
	Issuer     string   `json:"iss"`
	Subject    string   `json:"sub"`
	Audiences  []string `json:"aud"`
	IssuedAt   int64    `json:"iat"`
	NotBefore  int64    `json:"nbf"`
	Expires    int64    `json:"exp"`
	Kubernetes struct {
		Namespace      string  `json:"namespace"`
		ServiceAccount account `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type account struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

func newAPIServer(t testing.TB) *APIServer {
	t.Helper()
	s := &APIServer{t: t, key: newKey(t), tokens: make(map[string]identity)}
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s.PublicKey = encode("PUBLIC KEY", der)
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	s.URL, s.CA = server.URL, encode("CERTIFICATE", server.Certificate().Raw)
	return s
}

// Token makes a token of a ServiceAccount in Namespace, for Audience where none
// is named. A negative life is one that is over.
func (s *APIServer) Token(serviceAccount string, life time.Duration, audiences ...string) string {
	s.t.Helper()
	if len(audiences) == 0 {
		audiences = []string{Audience}
	}
	begin := time.Now().Add(min(0, 2*life) - time.Minute)
	who := identity{
		Issuer: "https://kubernetes.default.svc", Subject: "system:serviceaccount:" + Namespace + ":" + serviceAccount,
		Audiences: audiences, IssuedAt: begin.Unix(), NotBefore: begin.Unix(), Expires: time.Now().Add(life).Unix(),
	}
	who.Kubernetes.Namespace = Namespace
	who.Kubernetes.ServiceAccount = account{serviceAccount, "uid-of-" + serviceAccount}
	token := s.sign(who)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = who
	return token
}

// Refuse makes it answer that no token is good, or no longer.
func (s *APIServer) Refuse(refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = refuse
}

// made are all tokens so far.
func (s *APIServer) made() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tokens []string
	for token := range s.tokens {
		tokens = append(tokens, token)
	}
	return tokens
}

func (s *APIServer) sign(claims identity) string {
	s.t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		s.t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	r, ss, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	ss.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

// ServeHTTP answers a TokenReview.
func (s *APIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	type user struct {
		Username string   `json:"username"`
		UID      string   `json:"uid"`
		Groups   []string `json:"groups"`
	}
	var review struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Token     string   `json:"token"`
			Audiences []string `json:"audiences"`
		} `json:"spec"`
		Status struct {
			Authenticated bool     `json:"authenticated"`
			User          *user    `json:"user,omitempty"`
			Audiences     []string `json:"audiences,omitempty"`
			Error         string   `json:"error,omitempty"`
		} `json:"status"`
	}
	if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || json.NewDecoder(r.Body).Decode(&review) != nil {
		http.Error(w, "only TokenReviews are answered here", http.StatusNotFound)
		return
	}
	s.mu.Lock()
	who, known := s.tokens[review.Spec.Token]
	refused := s.refused
	s.mu.Unlock()
	var audiences []string
	for _, a := range review.Spec.Audiences {
		if slices.Contains(who.Audiences, a) {
			audiences = append(audiences, a)
		}
	}
	if known && !refused && len(audiences) > 0 && time.Now().Before(time.Unix(who.Expires, 0)) {
		review.Status.Authenticated, review.Status.Audiences = true, audiences
		review.Status.User = &user{who.Subject, who.Kubernetes.ServiceAccount.UID, []string{
			"system:serviceaccounts", "system:serviceaccounts:" + Namespace, "system:authenticated",
		}}
	} else {
		review.Status.Error = "invalid bearer token"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(review) // Vault has gone if this fails
}
