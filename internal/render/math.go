package render

import (
	"fmt"
	"reflect"
)

// arithmetic makes a function of two numbers of any kind, what is piped being
// the first operand. A whole number and an unsigned one give a whole number,
// and whatever meets a float gives one. A number of Vault's answers is a
// json.Number, which is a string: parseInt or parseFloat make a number of it.
func arithmetic(name string, ints func(a, b int64) any, uints func(a, b uint64) any, floats func(a, b float64) any) func(b, a any) (any, error) {
	return func(b, a any) (any, error) {
		av, bv := reflect.ValueOf(a), reflect.ValueOf(b)
		for _, v := range []reflect.Value{av, bv} {
			if !v.IsValid() || !v.CanInt() && !v.CanUint() && (!v.CanFloat() || floats == nil) {
				return nil, plain(fmt.Sprintf("%s takes numbers, not %s (parseInt makes one of a string)", name, typeName(v)))
			}
		}
		switch {
		case av.CanFloat() || bv.CanFloat():
			return floats(asFloat(av), asFloat(bv)), nil
		case av.CanUint() && bv.CanUint():
			return uints(av.Uint(), bv.Uint()), nil
		}
		return ints(asInt(av), asInt(bv)), nil
	}
}

// typeName names a value's type.
func typeName(v reflect.Value) string {
	if !v.IsValid() {
		return "nil"
	}
	return v.Type().String()
}

func asInt(v reflect.Value) int64 {
	if v.CanUint() {
		return int64(v.Uint())
	}
	return v.Int()
}

func asFloat(v reflect.Value) float64 {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	}
	return v.Float()
}

var (
	add = arithmetic("add", func(a, b int64) any { return a + b }, func(a, b uint64) any { return a + b },
		func(a, b float64) any { return a + b })
	subtract = arithmetic("subtract", func(a, b int64) any { return a - b }, func(a, b uint64) any { return a - b },
		func(a, b float64) any { return a - b })
	multiply = arithmetic("multiply", func(a, b int64) any { return a * b }, func(a, b uint64) any { return a * b },
		func(a, b float64) any { return a * b })
	divide = arithmetic("divide", func(a, b int64) any { return a / b }, func(a, b uint64) any { return a / b },
		func(a, b float64) any { return a / b })
	modulo = arithmetic("modulo", func(a, b int64) any { return a % b }, func(a, b uint64) any { return a % b }, nil)
)

// less compares two numbers as arithmetic would.
var less = arithmetic("comparing", func(a, b int64) any { return a < b }, func(a, b uint64) any { return a < b },
	func(a, b float64) any { return a < b })

// minimum and maximum give the operand itself, in the widest type of its kind,
// and b where both are equal.

func minimum(b, a any) (any, error) {
	return pick("minimum", a, b, func(b, a any) (any, error) { return less(b, a) })
}
func maximum(b, a any) (any, error) {
	return pick("maximum", a, b, func(b, a any) (any, error) { return less(a, b) })
}

func pick(name string, a, b any, prefers func(b, a any) (any, error)) (any, error) {
	first, err := prefers(b, a)
	if err != nil {
		return nil, plain(name + " takes numbers (parseInt makes one of a string)")
	}
	v := reflect.ValueOf(b)
	if first == true {
		v = reflect.ValueOf(a)
	}
	switch {
	case v.CanInt():
		return v.Int(), nil
	case v.CanUint():
		return v.Uint(), nil
	}
	return v.Float(), nil
}
