// Package check tells whether Latchkey works in a cluster, as its users would
// find it: from the API server over the webhook to Vault. It changes nothing in
// the cluster: the pod that it makes is a dry run. Of its logins it revokes the
// Vault token at once; a first one leaves an entity in Vault.
//
// Each check says that all is well, or what is wrong and the remedy, or why it
// could not look: a permission or a flag that is missing is named, never passed
// over. Who does not answer in time is not well.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/vaulterr"
)

// The names that the chart gives, and that nobody can change.
const (
	injectorName = "latchkey-injector"
	webhookName  = "injector.latchkey.dev"
	webhookPath  = "/mutate"
	configKey    = "config.yaml"
)

// mountedConfig is where the injector's own pod has the operator's
// configuration, which it may read without asking the API server.
const mountedConfig = "/etc/latchkey/config/config.yaml"

// usualNamespace is where the documentation has the chart installed.
const usualNamespace = "latchkey"

// Options say what to look at.
type Options struct {
	// Kubeconfig and Context are as kubectl's flags of these names. Where they
	// are empty kubectl's rules decide, and in a pod its own ServiceAccount.
	Kubeconfig, Context string
	// ConfigFile is the operator's configuration; where it is empty, that of
	// the injector in the cluster.
	ConfigFile string
	// Namespace and ServiceAccount are whose pods and logins are tried, default
	// where they are empty. Logins are tried only if one of the two is given.
	Namespace, ServiceAccount string
	// Role to log in with; empty is that of the connection's template.
	Role string
	// Connection to check; empty is all of them.
	Connection string
	// InjectorNamespace is where the chart is installed. Empty is the injector's
	// own in its pod, and latchkey elsewhere.
	InjectorNamespace string
	// Timeout bounds all checks together.
	Timeout time.Duration
}

// Status is how a check ended.
type Status int

// The statuses of a Result.
const (
	OK         Status = iota
	Failed            // something is wrong
	NotChecked        // it is not known
)

// Result is one finding.
type Result struct {
	Status Status
	// Check is what was looked at, such as "webhook endpoints".
	Check string
	// Text says what is, in one line.
	Text string
	// Remedy says what to do, or is empty.
	Remedy string
}

func (r Result) String() string {
	label := map[Status]string{OK: "ok", Failed: "FAIL", NotChecked: "-"}[r.Status]
	text := r.Text
	if r.Status == NotChecked {
		text = "not checked: " + text
	}
	if r.Remedy != "" {
		text += " (" + r.Remedy + ")"
	}
	return fmt.Sprintf("%-5s %s: %s", label, r.Check, oneLine(text))
}

// A check looks at one thing.
type check struct {
	name string
	// cluster means that it asks the API server.
	cluster bool
	// needs are the checks whose failure would only show again here.
	needs []string
	run   func(context.Context, *env) []Result
}

// checks are in the order in which things depend on each other.
var checks = []check{
	{"API server", false, nil, apiServer},
	{"webhook configuration", true, nil, webhookConfiguration},
	{"webhook endpoints", true, nil, webhookEndpoints},
	{"webhook call", true, []string{"webhook configuration", "webhook endpoints"}, webhookCall},
	{"serving certificate", true, []string{"webhook endpoints"}, servingCertificate},
	{"configuration", false, nil, configuration},
	{"connection", false, []string{"configuration"}, connections},
	{"login", true, []string{"configuration"}, logins},
	{"pods", true, nil, pods},
}

// env is what checks share: what they were asked, and what earlier ones found.
type env struct {
	Options
	inPod bool

	kube    kubernetes.Interface // nil without an API server
	server  string               // the API server's address
	webhook *admissionv1.MutatingWebhook
	// replicas are the injector's pods, addresses those of the ready ones, as
	// host:port. Either may be unknown.
	replicas    []corev1.Pod
	replicasErr error // why they are not known
	addresses   []string

	config *mutate.Config // nil where it is not known
	vaults map[string]*vault
}

// Run does all checks and prints a line for each finding. The error counts
// what failed; what was not checked is no failure, unless for want of time.
func Run(ctx context.Context, o Options, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if o.InjectorNamespace == "" {
		o.InjectorNamespace = ownNamespace()
	}
	e := &env{Options: o, inPod: inPod(), vaults: make(map[string]*vault)}
	return run(ctx, checks, e, w)
}

func run(ctx context.Context, checks []check, e *env, w io.Writer) error {
	failed := make(map[string]bool)
	count := make(map[Status]int)
	var late error
	for _, c := range checks {
		var results []Result
		blocker := slices.IndexFunc(c.needs, func(need string) bool { return failed[need] })
		switch {
		case c.cluster && e.kube == nil:
			results = notChecked("there is no API server to ask")
		case blocker >= 0:
			// What depends on this one is blocked as well.
			failed[c.name] = true
			results = notChecked("%s has to work first", c.needs[blocker])
		case ctx.Err() != nil:
			late = ctx.Err()
			results = notChecked("there is no time left (--timeout %s)", e.Timeout)
			if errors.Is(late, context.Canceled) {
				results = notChecked("interrupted")
			}
		default:
			results = c.run(ctx, e)
		}
		for _, r := range results {
			if r.Check == "" {
				r.Check = c.name
			}
			count[r.Status]++
			failed[c.name] = failed[c.name] || r.Status == Failed
			if _, err := fmt.Fprintln(w, r); err != nil {
				return fmt.Errorf("printing results: %w", err)
			}
		}
	}
	if n := count[Failed]; n > 0 || late != nil {
		err := fmt.Errorf("%d failed, %d ok, %d not checked", n, count[OK], count[NotChecked])
		if late != nil {
			err = fmt.Errorf("%w, and it did not come to the end: %w", err, late)
		}
		return err
	}
	if count[OK] == 0 {
		return errors.New("nothing could be checked")
	}
	return nil
}

func ok(format string, args ...any) []Result {
	return []Result{{Status: OK, Text: fmt.Sprintf(format, args...)}}
}

func notChecked(format string, args ...any) []Result {
	return []Result{{Status: NotChecked, Text: fmt.Sprintf(format, args...)}}
}

func fail(remedy, format string, args ...any) []Result {
	return []Result{{Status: Failed, Text: fmt.Sprintf(format, args...), Remedy: remedy}}
}

// named gives results a name of their own.
func named(name string, results []Result) []Result {
	for i := range results {
		results[i].Check = name
	}
	return results
}

// longest is how long a line's text can be, in bytes: others wrote parts of it.
const longest = 1200

// oneLine leaves no line break and no invisible character, and cuts what is long.
func oneLine(s string) string {
	s = vaulterr.OneLine(s)
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
