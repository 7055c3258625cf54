package render

import (
	"fmt"
	"reflect"
)

// index is text/template's function of that name, but that a map which lacks
// the key is an error, as a field that is missing is. The built-in one gives a
// zero value.
func (r *Renderer) index(item reflect.Value, keys ...reflect.Value) (reflect.Value, error) {
	item = concrete(item)
	for _, key := range keys {
		key = concrete(key)
		if !item.IsValid() {
			return reflect.Value{}, plain("index of nil")
		}
		switch item.Kind() {
		case reflect.Array, reflect.Slice, reflect.String:
			if !key.IsValid() || !key.CanInt() && !key.CanUint() {
				return reflect.Value{}, plain("index of a list takes a whole number")
			}
			if n := asInt(key); n < 0 || n >= int64(item.Len()) {
				return reflect.Value{}, plain(fmt.Sprintf("index is beyond the list's %d entries", item.Len()))
			}
			item = concrete(item.Index(int(asInt(key))))
		case reflect.Map:
			if !key.IsValid() || !key.Type().AssignableTo(item.Type().Key()) {
				return reflect.Value{}, plain("index takes a key of the map's type, " + item.Type().Key().String())
			}
			value := item.MapIndex(key)
			if !value.IsValid() {
				return reflect.Value{}, plain(fmt.Sprintf("secret has no key %q (sprig_get and sprig_dig give something for it)", r.called(fmt.Sprint(key))))
			}
			item = concrete(value)
		default:
			return reflect.Value{}, plain("index takes a map or a list, not " + item.Type().String())
		}
	}
	return item, nil
}

// concrete is what an interface holds and a pointer points to.
func concrete(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return v
}
