package claims

import (
	"encoding/base64"
	"testing"
)

func TestClaims(t *testing.T) {
	for _, c := range []struct{ payload, want string }{
		{`{"aud":"one","iss":"i","exp":0,"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"s"}}}`, `ServiceAccount n/s (aud "one", iss "i", exp 1970-01-01T00:00:00Z)`},
		{`{"aud":["a","b"]}`, `ServiceAccount / (aud "a,b", iss "", exp 1970-01-01T00:00:00Z)`},
		{`{"aud":7}`, `an unknown ServiceAccount (the token file holds a JWT that cannot be read)`},
		{`x`, `an unknown ServiceAccount (the token file holds a JWT that cannot be read)`},
	} {
		if got := Read("h." + base64.RawURLEncoding.EncodeToString([]byte(c.payload)) + ".s").String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.payload, got, c.want)
		}
	}
	if got := Read("a.b").String(); got != "an unknown ServiceAccount (the token file holds no JWT)" {
		t.Error(got)
	}
}
