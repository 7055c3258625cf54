package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// hashBytes of SHA-256 are enough to find no other role of the same, and let a
// ConfigMap hold the record of some thousands.
const hashBytes = 16

// Hash is a digest of fields, the same for all that mean the same: the order of a
// list does not count, nor does a field that is empty, so that a record stays
// true when a later build knows more fields.
func Hash(f desired.Fields) string {
	said := make(map[string]any, len(f))
	for name, value := range f {
		if empty(value) {
			continue
		}
		switch v := value.(type) {
		case []string:
			value = slices.Sorted(slices.Values(v))
		case map[string][]string:
			sorted := make(map[string][]string, len(v))
			for key, list := range v {
				sorted[key] = slices.Sorted(slices.Values(list))
			}
			value = sorted
		}
		said[name] = value
	}
	text, err := json.Marshal(said) // with its keys sorted
	if err != nil {
		panic("plan: a field that is no JSON: " + err.Error()) // desired.Fields names the types there are
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:hashBytes])
}

// Equal reports whether two sets of fields mean the same.
func Equal(a, b desired.Fields) bool { return Hash(a) == Hash(b) }

func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case int64:
		return v == 0
	case []string:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	case map[string][]string:
		return len(v) == 0
	}
	return false
}
