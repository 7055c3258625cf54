package mutate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Spec is what a pod wants, typed and with every default filled in. Nothing
// behind it knows what the annotations were called.
type Spec struct {
	// Containers are the names of those that get the files; nil means every
	// app container that the pod has when it is first seen.
	Containers []string
	// MountPath is where they see the files: absolute and clean, or empty
	// where what was asked for is wrong.
	MountPath string
	// Agent is what the agent is told. A file's mode is 0 where the pod's
	// author states none: Inject knows who has to read it.
	Agent config.Agent

	// What the annotations say before it is checked against what the operator
	// allows.
	inject     bool
	connection string
	role       string
}

// Parse turns the annotations of a pod that wants injection into its Spec. It
// reports every problem at once, and returns what could be understood
// nevertheless, so that the pod itself can be checked too.
func Parse(annotations map[string]string, id Identity, cfg *Config) (*Spec, Problems) {
	var p Problems
	s := &Spec{
		connection: "default",
		MountPath:  cfg.Defaults.MountPath,
		Agent: config.Agent{
			Version:      config.Version,
			Refresh:      config.Duration(cfg.Defaults.Refresh),
			StartTimeout: config.Duration(cfg.Defaults.StartTimeout),
			Log:          config.Log{Level: "info", Format: "json"},
		},
	}
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
	if _, ok := annotations[Prefix+"inject"]; !ok {
		p.add(Prefix+"inject", "missing (\"true\" or \"false\")")
	}
	if _, ok := annotations[Prefix+"files"]; !ok {
		p.add(Prefix+"files", "missing (%s)", filesForm)
	}
	s.connect(id, cfg, &p)
	return s, p.sorted()
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
	s.Agent.Vault = conn.Vault
	role := s.role
	if role == "" && conn.RoleTemplate != "" {
		var err error
		if role, err = expandRole(conn.RoleTemplate, id); err != nil {
			p.add(Prefix+"role", "%v from the operator's template", err)
		}
	} else if role == "" {
		p.add(Prefix+"role", "missing (the name of a role at Vault's %q; connection %q has no template for one)", conn.Vault.Auth.Mount, s.connection)
	}
	s.Agent.Vault.Auth.Role = role
}

// The setters below are what the rows of the table do with a value. On an
// error they leave the field empty or at its default.

func setInject(s *Spec, v string) []error {
	switch v {
	case "true", "false":
		s.inject = v == "true"
		return nil
	}
	return one(fmt.Errorf("%q (\"true\" or \"false\")", v))
}

func setMountPath(s *Spec, v string) []error {
	var err error
	s.MountPath, err = parseMountPath(v)
	return one(err)
}

func setContainers(s *Spec, v string) []error {
	var errs []error
	s.Containers, errs = parseNames(v)
	return errs
}

func setRole(s *Spec, v string) []error {
	role, err := parseRole(v)
	// A wrong role is not a missing one.
	s.role = or(role, "invalid")
	return one(err)
}

func setConnection(s *Spec, v string) []error {
	// Whether there is such a connection is checked where the namespace is known.
	s.connection = v
	return nil
}

// oneOf makes a setter for a string with few values.
func oneOf(field func(*Spec) *string, allowed ...string) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		if !slices.Contains(allowed, v) {
			return one(fmt.Errorf("%q (%s)", v, strings.Join(allowed, ", ")))
		}
		*field(s) = v
		return nil
	}
}

// duration makes a setter for a duration of at least the given length.
func duration(field func(*Spec) *config.Duration, least time.Duration) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		d, err := parseDuration(v, least)
		if err == nil {
			*field(s) = config.Duration(d)
		}
		return one(err)
	}
}

func one(err error) []error {
	if err == nil {
		return nil
	}
	return []error{err}
}

// parseNames reads container names, separated by commas and blanks.
func parseNames(v string) (names []string, errs []error) {
	for _, name := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		switch {
		case len(names) == maxContainers:
			return nil, append(errs, fmt.Errorf("more than %d names (those of containers)", maxContainers))
		case slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("%q stands more than once (each name once)", name))
		default:
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		errs = append(errs, errNoNames)
	}
	return names, errs
}
