package mutate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// The setters here are what the rows of the table do with a value. On an error
// they leave the field empty or at its default.

const (
	// maxAudience is longer than any name or URL of a Vault, in bytes.
	maxAudience = 512
	// maxTokenLife bounds the ServiceAccount token's lifetime: a token that is
	// stolen serves for as long, and the kubelet replaces older ones daily in
	// any case.
	maxTokenLife = 24 * time.Hour
)

func setMountPath(s *Spec, v string) []error {
	var err error
	s.MountPath, err = parseMountPath(v)
	return one(err)
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

func setAudience(s *Spec, v string) []error {
	s.audience = &v
	return one(checkAudience(v))
}

// checkAudience says what is wrong with an audience of a ServiceAccount token.
func checkAudience(v string) error {
	if len(v) > maxAudience || strings.ContainsFunc(v, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsGraphic(r) }) {
		return fmt.Errorf("%q (at most %d bytes without control characters; empty for the API server's own)", shorten(v, 60), maxAudience)
	}
	return nil
}

func setTokenExpiration(s *Spec, v string) []error {
	d, err := time.ParseDuration(v)
	if err != nil || d < tokenSeconds*time.Second || d > maxTokenLife || d%time.Second != 0 {
		return one(fmt.Errorf("%q (whole seconds from \"10m\", the least that the API server grants, to \"24h\")", v))
	}
	s.TokenSeconds = int64(d / time.Second)
	return nil
}

// setBool makes a setter for what is true or false.
func setBool(set func(*Spec, bool)) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		if v != "true" && v != "false" {
			return one(fmt.Errorf("%q (\"true\" or \"false\")", v))
		}
		set(s, v == "true")
		return nil
	}
}

// setID makes a setter for the ID of a user or group.
func setID(field func(*Spec) **int64) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		id, err := strconv.ParseInt(v, 10, 32)
		switch {
		case err == nil && id == 0:
			return one(errors.New("0 is root, as whom the agent never runs (1 to 2147483647)"))
		case err != nil || id < 0:
			return one(fmt.Errorf("%q (a number from 1 to 2147483647)", v))
		}
		*field(s) = &id
		return nil
	}
}

// quantity makes a setter for one of the agent's requests or limits.
func quantity(list func(*corev1.ResourceRequirements) *corev1.ResourceList, name corev1.ResourceName) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		q, err := parseQuantity(v, leastOf[name])
		if err != nil {
			return one(err)
		}
		l := list(&s.Resources)
		if *l == nil {
			*l = make(corev1.ResourceList)
		}
		(*l)[name] = q
		return nil
	}
}

// names makes a setter for names of containers.
func names(field func(*Spec) *[]string) func(*Spec, string) []error {
	return func(s *Spec, v string) []error {
		names, errs := parseNames(v)
		*field(s) = names
		return errs
	}
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
