package mutate

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/suggest"
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
	{"inject", `"true" or "false"`, "none", "Whether the pod gets an agent. Pods with other annotations of ours must say it.", setBool(func(s *Spec, v bool) { s.inject = v })},
	{"connection", "name", "default", "The connection to Vault, by the name that the operator gave it.", setConnection},
	{"role", "name", "the connection's template", "The role to log in to.", setRole},
	{"files", "YAML list", "none", "The files to publish; see below.", setFiles},
	{"notify", "YAML list", "none", "Whom to tell when files have changed; see below.", setNotify},
	{"token-file", "path or YAML map", "none", "Where to publish the Vault token itself; see below.", setTokenFile},
	{"proxy", "port or name of a socket", "none", "Where the app can reach Vault's API, with the agent's token: a loopback port from 1024 to 65535, or a unix socket among the files; see below.", setProxy},
	{"metrics-port", "port, 1024 to 65535", "none", "The port of the pod on which the agent serves `/metrics`, `/livez` and `/readyz`; see below.", setMetricsPort},
	{"lifecycle", "native, init or sidecar", "native", "How the agent runs; see below.", oneOf(func(s *Spec) *string { return &s.Agent.Lifecycle }, config.Native, config.Init, config.Sidecar)},
	{"containers", "names, separated by commas", "every app container", "The app containers that get the files.", names(func(s *Spec) *[]string { return &s.Containers })},
	{"init-containers", "names, separated by commas", "none", "The init containers that get the files. The agent comes before them.", names(func(s *Spec) *[]string { return &s.InitContainers })},
	{"mount-path", "absolute path", "/vault/secrets", "The directory where the containers see the files.", setMountPath},
	{"refresh", "duration, at least 5s", "5m", "How long a secret without a lease is trusted before it is read again.", duration(func(s *Spec) *config.Duration { return &s.Agent.Refresh }, config.MinRefresh)},
	{"start-timeout", "duration, at least 1s", "2m", "How long the agent tries to publish its first files before it gives the reason as its termination message and starts anew.", duration(func(s *Spec) *config.Duration { return &s.Agent.StartTimeout }, config.MinStartTimeout)},
	{"audience", "string", "the connection's", "The audience of the ServiceAccount token that the agent logs in with; empty is the API server's own, which then accepts that token too.", setAudience},
	{"token-expiration", "duration, 10m to 24h", "10m", "The lifetime of that ServiceAccount token. The kubelet replaces it in time.", setTokenExpiration},
	{"revoke-on-exit", `"true" or "false"`, "by lifecycle", "Whether the agent revokes its Vault token, and with it every lease, when it ends. Without it, native and sidecar do unless there is a token file or a proxy. Init does where nothing has a lease and there is no token file, and cannot be made to otherwise.", setBool(func(s *Spec, v bool) { s.Agent.RevokeOnExit = &v })},
	{"run-as-user", "user ID above 0", "by the pod", "The user that the agent runs as, and that its files belong to.", setID(func(s *Spec) **int64 { return &s.RunAsUser })},
	{"run-as-group", "group ID above 0", "by the pod", "The group that the agent runs as.", setID(func(s *Spec) **int64 { return &s.RunAsGroup })},
	{"requests-cpu", "quantity, at least 1m", "5m", "The CPU that the agent asks for.", quantity(requests, corev1.ResourceCPU)},
	{"requests-memory", "quantity, at least 1Mi", "16Mi", "The memory that the agent asks for.", quantity(requests, corev1.ResourceMemory)},
	{"limits-cpu", "quantity, at least 1m", "none", "The CPU that the agent may use.", quantity(limits, corev1.ResourceCPU)},
	{"limits-memory", "quantity, at least 32Mi", "none", "The memory that the agent may use. The files are charged to it.", quantity(limits, corev1.ResourceMemory)},
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
	hint := suggest.DidYouMean(name, known)
	if hint == "" {
		hint = strings.Join(known, ", ")
	}
	return fmt.Sprintf("unknown annotation (%s)", hint)
}
