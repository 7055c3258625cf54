package mutate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Spec is what a pod wants, typed and with every default filled in. Nothing
// behind it knows what the annotations were called.
type Spec struct {
	// Containers are the names of those that get the files; nil means every
	// app container that the pod has when it is first seen.
	Containers []string
	// InitContainers are the names of the init containers that get them.
	InitContainers []string
	// MountPath is where they see the files: absolute and clean, or empty
	// where what was asked for is wrong.
	MountPath string
	// Agent is what the agent is told. A file's mode is 0 where the pod's
	// author states none: Inject knows who has to read it.
	Agent config.Agent
	// Connection is what the agent connects to, nil where it is not known.
	Connection *Connection
	// TokenSeconds is the lifetime of the ServiceAccount token, in seconds.
	TokenSeconds int64
	// RunAsUser and RunAsGroup are who the agent runs as, nil where the pod
	// decides. Neither is root.
	RunAsUser, RunAsGroup *int64
	// Resources are those that the pod's author states, which go before the
	// operator's.
	Resources corev1.ResourceRequirements

	// What the annotations say before it is checked against what the operator
	// allows.
	inject     bool
	connection string
	role       string
	audience   *string // nil for the connection's
}

// Parse turns the annotations of a pod that wants injection into its Spec. It
// reports every problem at once, and returns what could be understood
// nevertheless, so that the pod itself can be checked too.
func Parse(annotations map[string]string, id Identity, cfg *Config) (*Spec, Problems) {
	var p Problems
	s := &Spec{
		connection:   "default",
		MountPath:    cfg.Defaults.MountPath,
		TokenSeconds: tokenSeconds,
		Agent: config.Agent{
			Version:      config.Version,
			Lifecycle:    cfg.Defaults.Lifecycle,
			Refresh:      config.Duration(cfg.Defaults.Refresh),
			StartTimeout: config.Duration(cfg.Defaults.StartTimeout),
			RetireGrace:  config.Duration(cfg.Defaults.RetireGrace),
			Log:          config.Log{Level: "info", Format: "json"},
		},
	}
	s.set(annotations, &p)
	if _, ok := annotations[Prefix+"inject"]; !ok {
		p.add(Prefix+"inject", "missing (\"true\" or \"false\")")
	}
	_, files := annotations[Prefix+"files"]
	_, token := annotations[Prefix+"token-file"]
	_, proxy := annotations[Prefix+"proxy"]
	if !files && !token && !proxy {
		p.add(Prefix+"files", "missing (%s; or %stoken-file or %sproxy)", filesForm, Prefix, Prefix)
	}
	s.connect(id, cfg, &p)
	s.checkTokenPath(&p)
	s.checkServe(&p)
	if s.Agent.Lifecycle == config.Init && len(s.Agent.Notify) > 0 {
		p.add(Prefix+"notify", "lifecycle %s publishes once, so that there is nothing to tell (lifecycle %s or %s)", config.Init, config.Native, config.Sidecar)
	}
	if revoke := s.Agent.RevokeOnExit; s.Agent.Lifecycle == config.Init && revoke != nil && *revoke {
		p.add(Prefix+"revoke-on-exit", "\"true\" has no effect with lifecycle %s, where the files live on what the token got (\"false\", or without it)", config.Init)
	}
	checkResources(s.Resources, cfg.Defaults.Resources, &p)
	return s, p.sorted()
}

// set fills in what each annotation states by itself.
func (s *Spec) set(annotations map[string]string, p *Problems) {
	for name, value := range annotations { // in any order: problems are sorted
		key, ours := strings.CutPrefix(name, Prefix)
		if !ours || name == StatusAnnotation {
			continue
		}
		r := find(key)
		if r == nil {
			p.add(name, "%s", unknownAnnotation(key))
			continue
		}
		for _, err := range r.set(s, value) {
			p.add(name, "%v", err)
		}
	}
}

// checkTokenPath reports where the token would lie in the way of the files.
func (s *Spec) checkTokenPath(p *Problems) {
	if s.Agent.TokenFile == nil {
		return
	}
	among := config.Collisions(pathsOf(s.Agent.Files))
	for i, err := range config.Collisions(s.Agent.Paths()) {
		// Those among the files have been reported as theirs.
		if !slices.ContainsFunc(among, func(e error) bool { return e.Error() == err.Error() }) {
			p.add(Prefix+"token-file", "%v", err)
		}
		if i >= maxTold {
			break
		}
	}
}

// connect resolves the connection and the role, which depend on each other and
// on who asks.
func (s *Spec) connect(id Identity, cfg *Config, p *Problems) {
	usable := func(name string) bool {
		return matches(cfg.Connections[name].AllowedNamespaces, id.Namespace)
	}
	conn, ok := cfg.Connections[s.connection]
	if !ok || !usable(s.connection) {
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(cfg.Connections)), func(n string) bool { return !usable(n) })
		allowed := "there is none for this namespace: ask the platform's operator"
		if len(names) > 0 {
			allowed = strings.Join(names, ", ")
		}
		what := "is unknown"
		if ok {
			what = fmt.Sprintf("is not allowed in namespace %q", id.Namespace)
		}
		p.add(Prefix+"connection", "%q %s (%s)", s.connection, what, allowed)
		return
	}
	s.Connection, s.Agent.Vault = conn, conn.Vault
	s.connectRole(id, conn, p)
}
