// Package claims reads what a ServiceAccount token says about itself. It is read
// for people only: nothing here verifies it.
package claims

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Claims are what a token says. The zero Claims are those of no token.
type Claims struct {
	Namespace, ServiceAccount string
	Issuer, Subject           string
	Audience                  []string
	Expires                   time.Time
	// Err says why there are none.
	Err error
}

func (c Claims) String() string {
	if c.Err != nil {
		return fmt.Sprintf("an unknown ServiceAccount (%v)", c.Err)
	}
	return fmt.Sprintf("ServiceAccount %s/%s (aud %q, iss %q, exp %s)", c.Namespace, c.ServiceAccount, strings.Join(c.Audience, ","), c.Issuer, c.Expires.UTC().Format(time.RFC3339))
}

// Read reads those of a JWT.
func Read(jwt string) (c Claims) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		c.Err = errors.New("the token file holds no JWT")
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var body struct {
		Issuer     string   `json:"iss"`
		Subject    string   `json:"sub"`
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
		c.Err = errors.New("the token file holds a JWT that cannot be read")
		return c
	}
	return Claims{
		Namespace: body.Kubernetes.Namespace, ServiceAccount: body.Kubernetes.ServiceAccount.Name,
		Issuer: body.Issuer, Subject: body.Subject, Audience: body.Audience, Expires: time.Unix(body.Expires, 0),
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
