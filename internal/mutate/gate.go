package mutate

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// The gates of Defaults.Gate: what holds an app back while its agent has not
// published yet. The volume's guard does so in any case.
const (
	// GateHook is the postStart hook alone. A pod whose Vault takes longer than
	// the hook waits for the kubelet's next attempt, 10 to 15 seconds later.
	GateHook = "hook"
	// GateHookAndProbe asks each second besides, by a startup probe, which
	// costs every pod about a second.
	GateHookAndProbe = "hook+probe"
)

// startupProbe is the agent's under GateHookAndProbe, and nil where nothing has
// to be held back or the hook does it alone. The agent itself gives up at its
// start timeout, in words; the kubelet, which would kill it without, comes later.
func startupProbe(agent *config.Agent, cfg *Config) *corev1.Probe {
	if cfg.Defaults.Gate != GateHookAndProbe || or(agent.Lifecycle, config.Native) != config.Native {
		return nil
	}
	const (
		period = 1  // seconds
		margin = 30 // seconds to write the last words, and to end
	)
	seconds := math.Ceil(time.Duration(agent.StartTimeout).Seconds()) + margin
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/agent", "ready"}}},
		PeriodSeconds:    period,
		TimeoutSeconds:   2, // an exec takes its time on a busy node
		FailureThreshold: int32(min(seconds/period, math.MaxInt32)),
	}
}
