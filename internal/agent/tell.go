package agent

import (
	"context"
	"log/slog"

	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// tell logs a problem once, and again when its text changes. Before the first
// publication it is also what the pod's status shows.
func (a *Agent) tell(about string, p *Problem) {
	a.ops.meter.problem(about, p)
	level := slog.LevelWarn
	if p.Act {
		level = slog.LevelError
	}
	if a.told[about] == p.Text {
		level = slog.LevelDebug
	}
	a.told[about] = p.Text
	a.log.Log(context.Background(), level, p.Text, "someoneMustAct", p.Act)
	if !a.open && about == "token" {
		a.setReason(p.Text)
	}
}

// solved logs the end of a problem that was told of.
func (a *Agent) solved(about string) {
	if _, ok := a.told[about]; ok {
		delete(a.told, about)
		a.log.Info("works again", "what", about)
	}
}

func (a *Agent) setReason(text string) {
	if a.reason == text {
		return
	}
	a.reason = text
	if err := a.volume.WritePrivate(keptStatus, []byte(vaulterr.OneLine(text)+"\n")); err != nil {
		a.log.Warn("writing the reason of not being ready", "reason", err)
	}
}
