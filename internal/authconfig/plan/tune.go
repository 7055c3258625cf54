package plan

import (
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
)

// Fields of a mount's settings, as a step shows them.
func (t Tune) Fields() desired.Fields {
	return desired.Fields{
		"description":       t.Description,
		"default_lease_ttl": int64(t.DefaultLeaseTTL / time.Second),
		"max_lease_ttl":     int64(t.MaxLeaseTTL / time.Second),
	}
}
