package mutate

import (
	"math"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// The agent gives up by itself, with its reason in words, before the kubelet
// would kill it.
func TestStartupProbeOutlastsTheAgent(t *testing.T) {
	cfg := &Config{Defaults: Defaults{Gate: GateHookAndProbe}}
	for timeout, want := range map[time.Duration]int32{
		config.MinStartTimeout:  31,
		1500 * time.Millisecond: 32,
		2 * time.Minute:         150,
		math.MaxInt64:           math.MaxInt32,
	} {
		p := startupProbe(&config.Agent{StartTimeout: config.Duration(timeout)}, cfg)
		if p == nil || p.FailureThreshold != want || p.PeriodSeconds != 1 {
			t.Errorf("start timeout %s: %+v, want %d failures of 1 s", timeout, p, want)
		}
	}
}
