package mutate

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkHandler is an admission without the network. BenchmarkDecode, to
// compare it with, only reads the same review.
func BenchmarkHandler(b *testing.B) {
	for _, name := range []string{"minimal", "all-formats", "reinvoked-review", "opted-out"} {
		b.Run(name, func(b *testing.B) {
			body := []byte(load(b, name).sent(b))
			h := quiet()
			b.ReportAllocs()
			for b.Loop() {
				req := httptest.NewRequest(http.MethodPost, "/mutate", bytes.NewReader(body))
				req.Header.Set("Content-Type", "application/json")
				h.ServeHTTP(httptest.NewRecorder(), req)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(load(b, "reinvoked-review").sent(b))
	b.ReportAllocs()
	for b.Loop() {
		var v map[string]any
		if err := json.Unmarshal(body, &v); err != nil {
			b.Fatal(err)
		}
	}
}
