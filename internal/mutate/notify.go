package mutate

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// notifyForm is what the notify annotation holds, in a few words.
const notifyForm = "a YAML list of {http: {url, method}} or {signal: {process, signal}}"

// notification is an entry of the notify annotation before its parts are read.
type notification struct{ http, signal *yaml.Node }

var notifyKeys = []key[notification]{
	{"http", "map", "A request to a port of the pod.", func(n *notification) any { return &n.http }},
	{"signal", "map", "A signal to every process of a name. The pod needs `shareProcessNamespace: true`, and the process the agent's user.", func(n *notification) any { return &n.signal }},
}

var httpKeys = []key[config.HTTPRequest]{
	{"url", "string", "An http or https URL whose host is 127.0.0.1, ::1 or localhost: in a pod with `hostNetwork`, the node's. Any status of 2xx is success; certificates are not verified.", func(r *config.HTTPRequest) any { return &r.URL }},
	{"method", "GET, POST, PUT or PATCH", "POST without it.", func(r *config.HTTPRequest) any { return &r.Method }},
}

var signalKeys = []key[config.ProcessSignal]{
	{"process", "string", "The name of the process's executable, without directories.", func(s *config.ProcessSignal) any { return &s.Process }},
	{"signal", "such as SIGHUP", "SIGHUP without it.", func(s *config.ProcessSignal) any { return &s.Signal }},
}

func setNotify(s *Spec, v string) []error {
	entries, err := readMaps(v, notifyForm)
	if err != nil {
		return one(err)
	}
	var errs []error
	for i, entry := range entries {
		if len(errs) >= maxTold {
			break
		}
		n, bad := parseNotification(entry)
		for _, err := range bad {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
		}
		s.Agent.Notify = append(s.Agent.Notify, n)
	}
	return errs
}

// parseNotification reads one entry, and reports all that is wrong with it.
func parseNotification(entry *yaml.Node) (config.Notification, []error) {
	var parts notification
	var n config.Notification
	errs := readKeys(entry, notifyKeys, &parts)
	if parts.http != nil {
		n.HTTP = new(config.HTTPRequest)
		errs = append(errs, readPart(parts.http, "http", httpKeys, n.HTTP)...)
	}
	if parts.signal != nil {
		n.Signal = new(config.ProcessSignal)
		errs = append(errs, readPart(parts.signal, "signal", signalKeys, n.Signal)...)
	}
	if len(errs) > 0 {
		return n, errs
	}
	return n, n.Validate()
}

// readPart reads a map below a key.
func readPart[T any](n *yaml.Node, name string, keys []key[T], into *T) []error {
	if n.Kind != yaml.MappingNode {
		return one(fmt.Errorf("%s is not a map (%s)", name, notifyForm))
	}
	errs := readKeys(n, keys, into)
	for i, err := range errs {
		errs[i] = fmt.Errorf("%s: %w", name, err)
	}
	return errs
}
