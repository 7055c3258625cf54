package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

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
