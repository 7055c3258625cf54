package authconfig

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/authconfig/reviewer"
)

// A token that Vault gets is counted, whatever it gets it for, and where there is
// none nothing is.
func TestReviewerTokensAreCounted(t *testing.T) {
	for mode, want := range map[string][2]int{reviewer.ShortLived: {1, 2}, reviewer.Local: {0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, newWorld(), func(c *Config) { c.Reviewer.Mode = mode })
			wantCount := func(n int) {
				t.Helper()
				if line := fmt.Sprintf(`latchkey_authconfig_reviewer_rotations_total{result="success"} %d`, n); !strings.Contains(r.scrape(t), line+"\n") {
					t.Errorf("%s: no %s", mode, line)
				}
			}
			time.Sleep(5 * time.Second)
			wantCount(want[0])
			r.config["issuer"] = "mine"
			time.Sleep(11 * time.Minute) // a resync
			if r.config["issuer"] != "" {
				t.Errorf("%s: the config was not put back: %v", mode, r.config)
			}
			wantCount(want[1])
		})
	}
}
