package mutate

import (
	"crypto/x509"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/version"
)

// Config is what the platform operator decides: loaded, complete and checked.
// Requests share it, so nothing may change it.
type Config struct {
	AgentImage      string
	ImagePullPolicy corev1.PullPolicy // empty leaves it to the API server
	Connections     map[string]*Connection
	Defaults        Defaults
	// RuntimeClassesWithoutSubPath are patterns (path.Match) of the
	// runtimeClassNames whose runtimes cannot mount a subPath as it is when
	// the container starts, so that the app would not wait for its files.
	RuntimeClassesWithoutSubPath []string
	// MeshProxies are the names of the containers without which a pod has no
	// network: the agent comes after them, and they get no files.
	MeshProxies []string
}

// Connection is a Vault server and a way to log in to it.
type Connection struct {
	// Vault lacks only the role.
	Vault config.Vault
	// RoleTemplate makes the role of a pod that names none; may be empty.
	RoleTemplate string
	// AllowedNamespaces are patterns (path.Match) of the Kubernetes
	// namespaces whose pods may use the connection.
	AllowedNamespaces []string
}

// Defaults hold for every pod that does not say otherwise.
type Defaults struct {
	MountPath    string
	Refresh      time.Duration
	StartTimeout time.Duration
	Resources    corev1.ResourceRequirements
}

// operatorFile is the YAML file as the operator writes it. Durations and
// quantities are strings here, since a failing UnmarshalJSON would hide every
// problem but the first.
type operatorFile struct {
	AgentImage                   string                        `json:"agentImage"`
	ImagePullPolicy              string                        `json:"imagePullPolicy"`
	Connections                  map[string]operatorConnection `json:"connections"`
	Defaults                     operatorDefaults              `json:"defaults"`
	RuntimeClassesWithoutSubPath []string                      `json:"runtimeClassesWithoutSubPath"`
	MeshProxies                  []string                      `json:"meshProxies"`
}

type operatorConnection struct {
	Address           string       `json:"address"`
	CA                string       `json:"ca"`
	TLSServerName     string       `json:"tlsServerName"`
	Namespace         string       `json:"namespace"`
	Auth              operatorAuth `json:"auth"`
	AllowedNamespaces []string     `json:"allowedNamespaces"`
}

type operatorAuth struct {
	Method    string `json:"method"`
	Mount     string `json:"mount"`
	Namespace string `json:"namespace"`
	Role      string `json:"role"`
	// Audience tells an empty value, which is the API server's own audience,
	// from none.
	Audience *string `json:"audience"`
}

type operatorDefaults struct {
	Lifecycle    string            `json:"lifecycle"`
	Gate         string            `json:"gate"`
	MountPath    string            `json:"mountPath"`
	Refresh      string            `json:"refresh"`
	StartTimeout string            `json:"startTimeout"`
	Resources    operatorResources `json:"resources"`
}

type operatorResources struct {
	Requests map[string]rawJSON `json:"requests"`
	Limits   map[string]rawJSON `json:"limits"`
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
// errors, and all problems are reported at once, as Problems.
func ParseConfig(data []byte) (*Config, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	var f operatorFile
	var p Problems
	unknown, err := json.UnmarshalStrict(asJSON, &f)
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", typeProblem(err))
	}
	for _, err := range unknown {
		p = append(p, unknownKey(err))
	}
	cfg := f.compile(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// unknownKey turns `unknown field "a.b"` into the form of all other problems.
func unknownKey(err error) string {
	if _, rest, ok := strings.Cut(err.Error(), `unknown field "`); ok {
		place := strings.TrimSuffix(rest, `"`)
		names := strings.Split(place, ".")
		last := len(names) - 1
		if known := keysAt(reflect.TypeFor[operatorFile](), names[:last]); known != nil {
			return fmt.Sprintf("%s: unknown key (%s)", place, or(didYouMean(names[last], known), strings.Join(known, ", ")))
		}
		return place + ": unknown key"
	}
	return err.Error()
}

// keysAt are the keys that a type of the file has at a place below it, nil
// where the place is not known: the name of a connection may hold a dot.
func keysAt(t reflect.Type, names []string) []string {
	for _, name := range names {
		switch t.Kind() {
		case reflect.Map:
			t = t.Elem()
		case reflect.Struct:
			field, ok := t.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, name) })
			if !ok {
				return nil
			}
			t = field.Type
		}
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	known := make([]string, t.NumField())
	for i := range known {
		known[i] = t.Field(i).Tag.Get("json")
	}
	return known
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
	if strings.ContainsAny(cfg.AgentImage, " \t\n") {
		p.add("agentImage", "%q holds a blank (an image reference)", cfg.AgentImage)
	}
	if len(f.Connections) == 0 {
		p.add("connections", "empty (at least one, by the name that pods ask for)")
	}
	for _, name := range slices.Sorted(maps.Keys(f.Connections)) {
		c := f.Connections[name]
		cfg.Connections[name] = c.compile(p, "connections."+name)
	}
	return cfg
}

func (c *operatorConnection) compile(p *Problems, at string) *Connection {
	if c.Address == "" {
		p.add(at+".address", "missing (such as \"https://vault.vault.svc:8200\")")
	} else if err := config.CheckAddress(c.Address); err != nil {
		p.add(at+".address", "%v", err)
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		p.add(at+".ca", "holds no certificate (a PEM bundle)")
	}
	method := or(c.Auth.Method, "kubernetes")
	if method != "kubernetes" {
		p.add(at+".auth.method", "%q (kubernetes)", method)
	}
	mount := or(c.Auth.Mount, "kubernetes")
	if m := strings.TrimPrefix(mount, "auth/"); strings.Trim(m, "/") == "" || path.Clean("/"+m) != "/"+strings.Trim(m, "/") {
		p.add(at+".auth.mount", "%q (the path of the auth method, such as \"kubernetes\")", mount)
	}
	if c.Auth.Role != "" {
		if _, err := expandRole(c.Auth.Role, Identity{"namespace", "account"}); err != nil {
			p.add(at+".auth.role", "%v", err)
		}
	}
	audience := "vault"
	if c.Auth.Audience != nil {
		audience = *c.Auth.Audience
	}
	allowed := c.AllowedNamespaces
	if allowed == nil {
		allowed = []string{"*"}
	}
	checkPatterns(p, at+".allowedNamespaces", allowed)
	return &Connection{
		Vault: config.Vault{
			Address:       c.Address,
			CA:            c.CA,
			TLSServerName: c.TLSServerName,
			Namespace:     c.Namespace,
			Auth: config.Auth{
				Method:    method,
				Mount:     mount,
				Namespace: c.Auth.Namespace,
				Audience:  audience,
				TokenPath: config.TokenPath,
			},
		},
		RoleTemplate:      c.Auth.Role,
		AllowedNamespaces: allowed,
	}
}

func (d *operatorDefaults) compile(p *Problems) Defaults {
	out := Defaults{
		MountPath:    or(d.MountPath, "/vault/secrets"),
		Refresh:      5 * time.Minute,
		StartTimeout: 2 * time.Minute,
	}
	if l := or(d.Lifecycle, "native"); l != "native" {
		p.add("defaults.lifecycle", "%q (native)", l)
	}
	if g := or(d.Gate, "hook"); g != "hook" {
		p.add("defaults.gate", "%q (hook)", g)
	}
	if m, err := parseMountPath(out.MountPath); err != nil {
		p.add("defaults.mountPath", "%v", err)
	} else {
		out.MountPath = m
	}
	for _, v := range []struct {
		name, value string
		least       time.Duration
		to          *time.Duration
	}{
		{"refresh", d.Refresh, config.MinRefresh, &out.Refresh},
		{"startTimeout", d.StartTimeout, config.MinStartTimeout, &out.StartTimeout},
	} {
		if v.value == "" {
			continue
		}
		parsed, err := parseDuration(v.value, v.least)
		if err != nil {
			p.add("defaults."+v.name, "%v", err)
			continue
		}
		*v.to = parsed
	}
	out.Resources = d.Resources.compile(p)
	return out
}

// What the agent asks for where the operator does not say: it idles.
const (
	requestCPU    = "5m"
	requestMemory = "16Mi"
	// volumeSize bounds the published files. The pages of a tmpfs are charged
	// to the container that writes them, so a memory limit has to cover it.
	volumeSize = "16Mi"
)

func (r *operatorResources) compile(p *Problems) corev1.ResourceRequirements {
	list := func(at string, values map[string]rawJSON) corev1.ResourceList {
		out := make(corev1.ResourceList)
		for _, name := range slices.Sorted(maps.Keys(values)) {
			value := strings.Trim(string(values[name]), `"`) // a number is a quantity too
			q, err := resource.ParseQuantity(value)
			switch {
			case name != "cpu" && name != "memory" && name != "ephemeral-storage":
				p.add(at+"."+name, "unknown resource (cpu, memory, ephemeral-storage)")
			case err != nil || q.Sign() < 0:
				p.add(at+"."+name, "%q (a quantity such as \"5m\" or \"16Mi\")", value)
			default:
				out[corev1.ResourceName(name)] = q
			}
		}
		return out
	}
	const at = "defaults.resources"
	out := corev1.ResourceRequirements{
		Requests: list(at+".requests", r.Requests),
		Limits:   list(at+".limits", r.Limits),
	}
	for name, value := range map[corev1.ResourceName]string{
		corev1.ResourceCPU: requestCPU, corev1.ResourceMemory: requestMemory,
	} {
		if _, ok := out.Requests[name]; !ok {
			out.Requests[name] = resource.MustParse(value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(out.Limits)) {
		limit, request := out.Limits[name], out.Requests[name]
		if limit.Cmp(request) < 0 {
			p.add(at+".limits."+string(name), "%s is below the request (at least %s)", limit.String(), request.String())
		}
	}
	least := resource.MustParse(requestMemory)
	least.Add(resource.MustParse(volumeSize))
	if limit, ok := out.Limits[corev1.ResourceMemory]; ok && limit.Cmp(least) < 0 {
		p.add(at+".limits.memory", "%s does not cover the volume of %s that is charged to the agent (at least %s)", limit.String(), volumeSize, least.String())
	}
	if len(out.Limits) == 0 {
		out.Limits = nil
	}
	return out
}

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
