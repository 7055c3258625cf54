package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNothingPrints(t *testing.T) {
	const secret = "s3cr3t"
	type holder struct {
		Public  Value[string]
		private Value[[]byte]
		nested  *struct{ v Value[map[string]any] }
	}
	h := holder{Of(secret), Of([]byte(secret)), &struct{ v Value[map[string]any] }{Of(map[string]any{"k": secret})}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T", "%p"} {
		for _, v := range []any{h, &h, h.Public, &h.Public, h.private, h.nested, []any{h}, map[string]any{"h": h}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, errors.Join(fmt.Errorf("%w %v", errors.New("x"), h)))
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("x", "h", h, "public", h.Public, "private", h.private, "nested", h.nested)
	}
	if err := json.NewEncoder(&out).Encode(map[string]any{"h": h, "p": h.private}); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprint([]byte(secret)), "czNjcjN0"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret is printed as %q in\n%s", form, out.String())
		}
	}
}

func TestReveal(t *testing.T) {
	if got := Of("x").Reveal(); got != "x" {
		t.Errorf("got %q", got)
	}
	if got := (Value[string]{}).Reveal(); got != "" {
		t.Errorf("zero value reveals %q", got)
	}
}
