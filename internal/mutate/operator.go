package mutate

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/latchkey-dev/latchkey/internal/strictyaml"
	"github.com/latchkey-dev/latchkey/internal/suggest"
	"github.com/latchkey-dev/latchkey/internal/version"
)

// Config is what the platform operator decides: loaded, complete and checked.
// Requests share it, so nothing may change it.
type Config struct {
	AgentImage      string
	ImagePullPolicy corev1.PullPolicy // empty leaves it to the API server
	// ImagePullSecrets are for the agent's image: Secrets of each workload's
	// own namespace, named once each.
	ImagePullSecrets []corev1.LocalObjectReference
	Connections      map[string]*Connection
	Defaults         Defaults
	// RuntimeClassesWithoutSubPath are patterns (path.Match) of the
	// runtimeClassNames whose runtimes give containers a volume in memory
	// without what the kubelet resolves of a subPath: the app would find an
	// empty directory, whatever had held it back until then.
	RuntimeClassesWithoutSubPath []string
	// MeshProxies are the names of the containers without which a pod has no
	// network: the agent comes after them, and they get no files.
	MeshProxies []string
}

// overridable are the settings of the operator's that another injector's
// annotations can change, where policy.mayOverride lets them. None of this one's
// can, so that nothing is kept of a policy that is read.
var overridable []string

// operatorFile is the YAML file as the operator writes it. Durations and
// quantities are strings here, since a failing UnmarshalJSON would hide every
// problem but the first.
type operatorFile struct {
	AgentImage                   string                        `json:"agentImage"`
	ImagePullPolicy              string                        `json:"imagePullPolicy"`
	ImagePullSecrets             []operatorName                `json:"imagePullSecrets"`
	Connections                  map[string]operatorConnection `json:"connections"`
	Defaults                     operatorDefaults              `json:"defaults"`
	Policy                       operatorPolicy                `json:"policy"`
	RuntimeClassesWithoutSubPath []string                      `json:"runtimeClassesWithoutSubPath"`
	MeshProxies                  []string                      `json:"meshProxies"`
}

type operatorPolicy struct {
	MayOverride []string `json:"mayOverride"`
}

// builtIn is used where there is no operator's file at all.
const builtIn = `
connections:
  default: {address: "https://vault.vault.svc:8200"}
`

// DefaultConfig is the configuration without an operator's file.
func DefaultConfig() *Config {
	cfg, err := ParseConfig([]byte(builtIn))
	if err != nil {
		panic(err) // a constant of this package
	}
	return cfg
}

// ParseConfig reads the operator's YAML file. Unknown and repeated keys are
// errors. All problems are reported at once, as Problems, but for what cannot be
// checked in a file whose form is wrong.
func ParseConfig(data []byte) (*Config, error) {
	var f operatorFile
	unknown, wrong, err := strictyaml.Decode(data, &f, restricting)
	if err != nil {
		return nil, err
	}
	var p Problems
	for _, q := range append(unknown, wrong...) {
		p.add(q.At, "%s", q.Text)
	}
	if len(wrong) > 0 {
		return nil, p.err()
	}
	cfg := f.compile(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// restricting are the keys without which a connection is open to more pods, or
// trusts and shows more, each with what it holds. Null is most often a list whose
// items are commented out, and would be no restriction at all.
var restricting = map[string]string{
	"allowedNamespaces":  "a list of namespaces, [] for none; without the key all of them",
	"ca":                 "a PEM bundle; without the key another source, or the system's roots",
	"caConfigMap":        "name and key; without it another source, or the system's roots",
	"caSecret":           "name and key; without it another source, or the system's roots",
	"clusterTrustBundle": "name or signerName; without it another source, or the system's roots",
	"labelSelector":      "matchLabels and matchExpressions; without it all bundles of the signer",
	"matchLabels":        "a map of labels; without it no label is asked for",
	"matchExpressions":   "a list; without it nothing is asked for",
	"clientCertSecret":   "the name of a Secret; without it the agent shows no certificate",
}

// or is value, or fallback where value is empty.
func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func (f *operatorFile) compile(p *Problems) *Config {
	cfg := &Config{
		AgentImage:                   or(f.AgentImage, "latchkey-agent:"+version.Version),
		ImagePullPolicy:              corev1.PullPolicy(f.ImagePullPolicy),
		Connections:                  make(map[string]*Connection),
		RuntimeClassesWithoutSubPath: f.RuntimeClassesWithoutSubPath,
		MeshProxies:                  f.MeshProxies,
		Defaults:                     f.Defaults.compile(p),
	}
	if cfg.RuntimeClassesWithoutSubPath == nil {
		cfg.RuntimeClassesWithoutSubPath = []string{"kata", "kata-*"}
	}
	if cfg.MeshProxies == nil {
		cfg.MeshProxies = []string{"istio-proxy", "linkerd-proxy"}
	}
	checkPatterns(p, "runtimeClassesWithoutSubPath", cfg.RuntimeClassesWithoutSubPath)
	switch cfg.ImagePullPolicy {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		p.add("imagePullPolicy", "%q (Always, IfNotPresent, Never)", f.ImagePullPolicy)
	}
	if f.AgentImage != "" && !imageReference.MatchString(f.AgentImage) {
		p.add("agentImage", "%q is no image reference (such as \"registry.example/latchkey-agent:1.0.0\")", shorten(f.AgentImage, 253))
	}
	for _, name := range cfg.MeshProxies {
		if len(validation.IsDNS1123Label(name)) > 0 {
			p.add("meshProxies", "%q is no name of a container (lower-case letters, digits and \"-\")", name)
		}
	}
	for i, secret := range f.ImagePullSecrets {
		checkName(p, fmt.Sprintf("imagePullSecrets[%d].name", i), secret.Name, "a Secret")
		if ref := (corev1.LocalObjectReference{Name: secret.Name}); !slices.Contains(cfg.ImagePullSecrets, ref) {
			cfg.ImagePullSecrets = append(cfg.ImagePullSecrets, ref)
		}
	}
	for _, name := range f.Policy.MayOverride {
		if !slices.Contains(overridable, name) {
			allowed := or(strings.Join(overridable, ", "), "there is nothing to override yet")
			p.add("policy.mayOverride", "%q is unknown (%s)", name, or(suggest.DidYouMean(name, overridable), allowed))
		}
	}
	if len(f.Connections) == 0 {
		p.add("connections", "empty (at least one, by the name that pods ask for)")
	}
	for _, name := range slices.Sorted(maps.Keys(f.Connections)) {
		c := f.Connections[name]
		if name == "" || strings.ContainsAny(name, " \t\n") {
			p.add("connections", "%q is no name (one that pods can ask for, without blanks)", name)
		}
		cfg.Connections[name] = c.compile(p, "connections."+name)
	}
	return cfg
}

// imageReference is a name with a registry, a tag and a digest where there are
// such (github.com/distribution/reference states the grammar).
var imageReference = regexp.MustCompile(`^` +
	`(([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]+)?/)?` +
	`[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*` +
	`(:\w[\w.-]{0,127})?` +
	`(@[A-Za-z][\w+.-]*:[0-9A-Fa-f]{32,})?$`)

func checkPatterns(p *Problems, at string, patterns []string) {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			p.add(at, "%q is no pattern (a name, or one with * and ?)", pattern)
		}
	}
}

// matches tells whether a name fits one of the patterns.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name) // checked when the file was read
		return ok
	})
}
