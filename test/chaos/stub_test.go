package chaos

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// stub is a Vault in the test's own process, which is fast enough for thousands
// of restarts, and whose secrets are others at each read.
type stub struct {
	address string

	mu     sync.Mutex
	logins int
	number int // of the last answer
	calls  int
}

func startStub(t *testing.T) *stub {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{address: "http://" + listener.Addr().String()}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go server.Serve(listener) // until it is closed
	t.Cleanup(func() { server.Close() })
	return s
}

// identity is a ServiceAccount token, which the stub does not look at.
func identity() string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(`{"aud":["vault"]}`)) + "." + encode([]byte("none"))
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	auth := map[string]any{"client_token": "hvs.chaos", "accessor": "chaos", "lease_duration": 3600, "renewable": true, "token_type": "service"}
	body := map[string]any{}
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
	case path == "auth/kubernetes/login":
		s.logins++
		body["auth"] = auth
	case path == "auth/token/renew-self":
		body["auth"] = auth
	case strings.HasPrefix(path, "kv/"):
		s.number++
		body["data"] = s.values("a", "b", "c", "d", "e")
	case strings.HasPrefix(path, "pki/issue/"):
		s.number++
		data := s.values("certificate", "private_key", "issuing_ca")
		// It is over at once, so that each start asks for another.
		data["expiration"] = time.Now().Add(time.Second).Unix()
		body["data"] = data
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintln(w, `{"errors":["no such path here"]}`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // an agent that was killed has gone
}

// values are an answer's keys and their values.
func (s *stub) values(keys ...string) map[string]any {
	values := make(map[string]any)
	for i, key := range keys {
		values[key] = value(s.number, i)
	}
	return values
}

// value is that of the i-th key of an answer, whose number it begins with. Values
// differ in length, and some take several pages of the volume.
func value(answer, i int) string {
	return fmt.Sprintf("%d %s", answer, strings.Repeat("x", answer%7*(1+i)*300))
}
