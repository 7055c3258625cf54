package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Duration travels as a Go duration string such as "5m".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes the duration as a string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads a duration string with a unit.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s is not a string (such as \"5m\")", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q is not a number with a unit (such as \"90s\" or \"5m\")", s)
	}
	*d = Duration(v)
	return nil
}

// Mode is a file's permission bits. It travels as an octal string, since a
// number would be decimal in JSON and octal in YAML 1.1.
type Mode uint32

func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// MarshalJSON writes the mode as an octal string.
func (m Mode) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// UnmarshalJSON reads an octal string.
func (m *Mode) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("mode %s is not a string (quote it: \"0400\")", b)
	}
	v, err := strconv.ParseUint(s, 8, 32)
	if err != nil || v > 0o777 {
		return fmt.Errorf("mode %q is not an octal number from \"0000\" to \"0777\"", s)
	}
	*m = Mode(v)
	return nil
}
