// Package sealed keeps secret values out of logs, errors and JSON: whatever
// prints a sealed value prints Placeholder.
package sealed

import (
	"fmt"
	"io"
	"log/slog"
)

// Placeholder stands for a value wherever it would be printed.
const Placeholder = "[secret]"

// Value holds a secret. The zero Value holds T's zero value.
//
// The secret lies in a closure because fmt calls no methods on unexported
// fields and follows pointers: of a function it prints no more than an address.
type Value[T any] struct{ reveal func() T }

// Of seals v.
func Of[T any](v T) Value[T] { return Value[T]{func() T { return v }} }

// Reveal returns the secret itself, which must not be printed.
func (v Value[T]) Reveal() T {
	if v.reveal == nil {
		var zero T
		return zero
	}
	return v.reveal()
}

func (Value[T]) String() string               { return Placeholder }
func (Value[T]) GoString() string             { return Placeholder }
func (Value[T]) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, Placeholder) }
func (Value[T]) MarshalText() ([]byte, error) { return []byte(Placeholder), nil }
func (Value[T]) MarshalJSON() ([]byte, error) { return []byte(`"` + Placeholder + `"`), nil }
func (Value[T]) LogValue() slog.Value         { return slog.StringValue(Placeholder) }
