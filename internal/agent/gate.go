package agent

import (
	"context"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
)

// poll is how often Wait looks: a readlink costs next to nothing, and a
// shorter wait is what the hook is for.
const poll = 10 * time.Millisecond

// Wait is the start gate's hook. It makes the gate if there is none yet and
// returns when the first files are published or ctx ends; only a gate that
// cannot be made is an error.
func Wait(ctx context.Context, v *volume.Volume) error {
	if err := v.Guard(); err != nil {
		return err
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !v.GateOpen() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// Ready reports whether the files are published, and good, and, if not, why, in
// one line.
func Ready(v *volume.Volume) (ready bool, reason string) {
	_, err := v.ReadPrivate(keptRevoked)
	if v.GateOpen() && v.Set() != "" && err != nil {
		return true, ""
	}
	status, err := v.ReadPrivate(keptStatus)
	if err != nil || len(status) == 0 {
		return false, "the agent is starting"
	}
	return false, strings.TrimSpace(string(status))
}
