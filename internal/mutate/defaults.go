package mutate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/strictyaml"
)

// Defaults hold for every pod that does not say otherwise.
type Defaults struct {
	// Lifecycle is one of those of package config.
	Lifecycle string
	// Gate is GateHook or GateHookAndProbe.
	Gate         string
	MountPath    string
	Refresh      time.Duration
	StartTimeout time.Duration
	// RetireGrace is config.Agent's; 0 leaves it to the agent.
	RetireGrace time.Duration
	Resources   corev1.ResourceRequirements
}

type operatorDefaults struct {
	Lifecycle    string            `json:"lifecycle"`
	Gate         string            `json:"gate"`
	MountPath    string            `json:"mountPath"`
	Refresh      string            `json:"refresh"`
	StartTimeout string            `json:"startTimeout"`
	RetireGrace  string            `json:"retireGrace"`
	Resources    operatorResources `json:"resources"`
}

type operatorResources struct {
	Requests map[string]rawQuantity `json:"requests"`
	Limits   map[string]rawQuantity `json:"limits"`
}

// rawQuantity is a quantity as it was written: a string, or a number.
type rawQuantity []byte

// UnmarshalJSON keeps a copy of the value.
func (r *rawQuantity) UnmarshalJSON(b []byte) error {
	var value any
	if err := json.Unmarshal(b, &value); err != nil {
		return err
	}
	switch value.(type) {
	case string, float64:
		*r = bytes.Clone(b)
		return nil
	}
	return fmt.Errorf("is a %s (a string or a number)", strictyaml.Kind(value))
}

func (d *operatorDefaults) compile(p *Problems) Defaults {
	out := Defaults{
		Lifecycle:    or(d.Lifecycle, config.Native),
		Gate:         or(d.Gate, GateHook),
		MountPath:    or(d.MountPath, "/vault/secrets"),
		Refresh:      5 * time.Minute,
		StartTimeout: 2 * time.Minute,
	}
	for _, v := range []struct {
		name, value string
		allowed     []string
	}{
		{"lifecycle", out.Lifecycle, []string{config.Native, config.Init, config.Sidecar}},
		{"gate", out.Gate, []string{GateHook, GateHookAndProbe}},
	} {
		if !slices.Contains(v.allowed, v.value) {
			p.add("defaults."+v.name, "%q (%s)", v.value, strings.Join(v.allowed, ", "))
		}
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
		{"retireGrace", d.RetireGrace, minRetireGrace, &out.RetireGrace},
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
	if out.RetireGrace > config.MaxRetireGrace {
		p.add("defaults.retireGrace", "%s is too long (at most %s)", out.RetireGrace, config.MaxRetireGrace)
	}
	out.Resources = d.Resources.compile(p)
	return out
}

// minRetireGrace is more than zero, which would be the agent's own choice.
const minRetireGrace = time.Second

// What the agent asks for where the operator does not say: it idles.
const (
	requestCPU    = "5m"
	requestMemory = "16Mi"
	// volumeSize bounds the published files. The pages of a tmpfs are charged
	// to the container that writes them, so a memory limit has to cover it.
	volumeSize = "16Mi"
)

func (r *operatorResources) compile(p *Problems) corev1.ResourceRequirements {
	list := func(at string, values map[string]rawQuantity) corev1.ResourceList {
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
	checkLimits(&out, func(name corev1.ResourceName, err error) { p.add(at+".limits."+string(name), "%v", err) })
	if len(out.Limits) == 0 {
		out.Limits = nil
	}
	return out
}

// checkLimits reports the limits that are below their requests or too tight for
// the agent.
func checkLimits(r *corev1.ResourceRequirements, bad func(corev1.ResourceName, error)) {
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		limit, request := r.Limits[name], r.Requests[name]
		if limit.Cmp(request) < 0 {
			bad(name, fmt.Errorf("%s is below the request (at least %s)", limit.String(), request.String()))
		}
	}
	least := resource.MustParse(requestMemory)
	least.Add(resource.MustParse(volumeSize))
	if limit, ok := r.Limits[corev1.ResourceMemory]; ok && limit.Cmp(least) < 0 {
		bad(corev1.ResourceMemory, fmt.Errorf("%s does not cover the volume of %s that is charged to the agent (at least %s)", limit.String(), volumeSize, least.String()))
	}
}
