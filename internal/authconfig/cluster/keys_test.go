package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func publicKey(t *testing.T, text string) crypto.PublicKey {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		t.Fatalf("not one public key as PEM: %q", text)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeys(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(keys ...jose.JSONWebKey) string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	body, contentType := "", "application/jwk-set+json"
	c := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/openid/v1/jwks" {
			t.Errorf("path %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	})

	body = set(jose.JSONWebKey{Key: r.Public(), KeyID: "r", Algorithm: "RS256", Use: "sig"},
		jose.JSONWebKey{Key: e.Public(), KeyID: "e"}, jose.JSONWebKey{Key: public})
	keys, err := c.Keys(t.Context())
	if err != nil || len(keys) != 3 {
		t.Fatalf("got %v, %v", keys, err)
	}
	if !r.PublicKey.Equal(publicKey(t, keys["r"])) || !e.PublicKey.Equal(publicKey(t, keys["e"])) {
		t.Errorf("other keys: %v", keys)
	}
	delete(keys, "r")
	delete(keys, "e")
	for id, text := range keys {
		if len(id) != 64 || !public.Equal(publicKey(t, text)) {
			t.Errorf("the one without an id: %q %s", id, text)
		}
	}

	for name, tt := range map[string]struct{ body, want string }{
		"private": {set(jose.JSONWebKey{Key: private, KeyID: "p"}), `key "p" is not a public key`},
		"shared":  {set(jose.JSONWebKey{Key: []byte("s3cr3t"), KeyID: "s"}), `key "s" is not a public key`},
		"empty":   {`{"keys":[]}`, "it holds no key"},
		"no JSON": {"<html>", "invalid character"},
	} {
		body = tt.body
		_, err := c.Keys(t.Context())
		t.Run(name, func(t *testing.T) { wantError(t, err, "reading the API server's /openid/v1/jwks: ", tt.want) })
	}
}

func TestIssuer(t *testing.T) {
	var refuse *apierrors.StatusError
	body := `{"issuer":"https://kubernetes.default.svc.cluster.local","jwks_uri":"x"}`
	c := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/.well-known/openid-configuration":
			t.Errorf("path %s", r.URL.Path)
		case refuse != nil:
			writeStatus(w, refuse.Status())
		default:
			_, _ = io.WriteString(w, body)
		}
	})
	got, err := c.Issuer(t.Context())
	if err != nil || got != "https://kubernetes.default.svc.cluster.local" {
		t.Errorf("got %q, %v", got, err)
	}
	body = `{}`
	_, err = c.Issuer(t.Context())
	wantError(t, err, "/.well-known/openid-configuration: it names no issuer")
	refuse = apierrors.NewForbidden(schema.GroupResource{}, "", errors.New(`cannot get path "/.well-known/openid-configuration"`))
	_, err = c.Issuer(t.Context())
	wantError(t, err, "bind the ClusterRole system:service-account-issuer-discovery")
	refuse = apierrors.NewNotFound(schema.GroupResource{}, "")
	_, err = c.Issuer(t.Context())
	wantError(t, err, "--service-account-issuer is an https URL")
}
