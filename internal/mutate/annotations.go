package mutate

import (
	"fmt"
	"strings"

	"github.com/latchkey-dev/latchkey/internal/config"
)

const (
	// Prefix begins the name of every annotation of ours.
	Prefix = "latchkey.dev/"
	// StatusAnnotation is put on injected pods for people and metrics.
	// Nothing is ever decided by it: whoever writes the pod can write it too.
	StatusAnnotation = Prefix + "status"
	// mirrorAnnotation marks the API server's copy of a static pod.
	mirrorAnnotation = "kubernetes.io/config.mirror"
)

// row declares one annotation: parsing, documentation and the test that each
// has its cases are all driven by the table.
type row struct {
	name string // without Prefix
	typ  string
	def  string // as documentation: what holds without the annotation
	doc  string
	set  func(s *Spec, value string) []error
}

var table = []row{
	{"inject", `"true" or "false"`, "none", "Whether the pod gets an agent. Pods with other annotations of ours must say it.", setInject},
	{"connection", "name", "default", "The connection to Vault, by the name that the operator gave it.", setConnection},
	{"role", "name", "the connection's template", "The role to log in to.", setRole},
	{"files", "YAML list", "none", "The files to publish; see below.", setFiles},
	{"lifecycle", "native", "native", "How the agent runs: `native` is a sidecar that starts before the app and stops after it.", oneOf(func(*Spec) *string { return new(string) }, "native")},
	{"containers", "names, separated by commas", "every app container", "The app containers that get the files.", setContainers},
	{"mount-path", "absolute path", "/vault/secrets", "The directory where the app containers see the files.", setMountPath},
	{"refresh", "duration, at least 5s", "5m", "How long a secret without a lease is trusted before it is read again.", duration(func(s *Spec) *config.Duration { return &s.Agent.Refresh }, config.MinRefresh)},
	{"start-timeout", "duration, at least 1s", "2m", "How long the agent tries to publish its first files before it gives the reason as its termination message and starts anew.", duration(func(s *Spec) *config.Duration { return &s.Agent.StartTimeout }, config.MinStartTimeout)},
	{"log-level", "debug, info, warn or error", "info", "The least severe messages that the agent logs.", oneOf(func(s *Spec) *string { return &s.Agent.Log.Level }, "debug", "info", "warn", "error")},
	{"log-format", "json or text", "json", "The form of the agent's log.", oneOf(func(s *Spec) *string { return &s.Agent.Log.Format }, "json", "text")},
}

// find is the row of an annotation, or nil.
func find(name string) *row {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

func unknownAnnotation(name string) string {
	known := make([]string, len(table))
	for i, r := range table {
		known[i] = r.name
	}
	hint := didYouMean(name, known)
	if hint == "" {
		hint = strings.Join(known, ", ")
	}
	return fmt.Sprintf("unknown annotation (%s)", hint)
}
