// Package config is the contract between the injector, which writes it, and
// the agent, which obeys it: one JSON value, strict in both directions. It
// travels in the pod's spec, where anybody who may read pods can read it, so
// it never holds a secret.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Version is the only value of Agent.Version that this build understands.
const Version = 1

// Where things lie in the agent's container. The injector mounts them there
// and the agent's defaults look for them there.
const (
	// VolumeDir is the whole of the volume that agent and apps share.
	VolumeDir = "/run/latchkey/volume"
	// OutName is the entry of VolumeDir that apps mount with subPath. It is
	// always a symlink: to nowhere until the first publication, and to
	// FilesName from then on.
	OutName = "out"
	// FilesName is the directory of VolumeDir that holds the published files.
	FilesName = "files"
	// PrivateName is the directory of VolumeDir that only the agent reads.
	PrivateName = "private"
	// TokenPath is the projected ServiceAccount token. It lies where the API
	// server's ServiceAccount admission would otherwise mount an API token.
	TokenPath = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	// TerminationLog is where the kubelet looks for a container's last words.
	TerminationLog = "/dev/termination-log"
)

// Agent is the agent's whole configuration.
type Agent struct {
	// Version of this contract; see the constant of the same name.
	Version int   `json:"version"`
	Vault   Vault `json:"vault"`
	// Files to publish, in the order in which the pod's author named them.
	Files []File `json:"files"`
	// Refresh is how long an unleased secret is trusted before it is read again.
	Refresh Duration `json:"refresh"`
	// StartTimeout bounds the wait for the first publication; then the agent
	// writes the last reason to TerminationLog and exits 1.
	StartTimeout Duration `json:"startTimeout"`
	Log          Log      `json:"log"`
}

// Vault says where the server is and how to log in to it.
type Vault struct {
	// Address is an http or https URL without a path.
	Address string `json:"address"`
	// CA is a PEM bundle, CAFile the path of one; at most one of the two.
	// Neither means the system's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
	// TLSServerName replaces the address's host in certificate checks.
	TLSServerName string `json:"tlsServerName,omitempty"`
	// Namespace of the secrets (Vault Enterprise, OpenBao).
	Namespace string `json:"namespace,omitempty"`
	Auth      Auth   `json:"auth"`
}

// Auth is one login to Vault.
type Auth struct {
	// Method is "kubernetes".
	Method string `json:"method"`
	// Mount of the method, with or without the leading "auth/".
	Mount string `json:"mount"`
	// Namespace of the login where it differs from Vault.Namespace.
	Namespace string `json:"namespace,omitempty"`
	Role      string `json:"role"`
	// Audience that the ServiceAccount token was asked for. The agent only
	// names it in messages; empty is the API server's own.
	Audience string `json:"audience,omitempty"`
	// TokenPath is the file that holds the ServiceAccount token. It is read
	// afresh for each login, since the kubelet rotates it.
	TokenPath string `json:"tokenPath"`
}

// File is one file to publish: a template, or a secret in a ready-made format.
type File struct {
	// Path below the mount path: slash-separated, relative, clean.
	Path string `json:"path"`
	// Template is a text/template. It excludes Secret, Format, Key and KV.
	Template string `json:"template,omitempty"`
	// Secret is the API path to read; on a KV v2 mount "kv/app" and
	// "kv/data/app" are the same secret.
	Secret string `json:"secret,omitempty"`
	// Format is one of the Format constants.
	Format string `json:"format,omitempty"`
	// Key is the one key that FormatRaw writes.
	Key string `json:"key,omitempty"`
	// KV is the version of the KV engine at Secret, 1 or 2; 0 asks Vault.
	KV int `json:"kv,omitempty"`
	// Mode is the file's permission bits.
	Mode Mode `json:"mode"`
}

// The formats of File.Format.
const (
	FormatEnv  = "env"  // sorted KEY='value' lines, quoted for a POSIX shell
	FormatJSON = "json" // sorted, indented, with a final newline
	FormatRaw  = "raw"  // the exact bytes of one key
)

// Log says how the agent logs.
type Log struct {
	Level  string `json:"level,omitempty"`  // debug, info (default), warn, error
	Format string `json:"format,omitempty"` // json (default), text
}

// Decode reads one JSON value strictly: an unknown field, a second value or an
// invalid setting is an error, and all invalid settings are reported at once.
// The result is valid.
func Decode(data []byte) (*Agent, error) {
	// The version comes first: fields that another version knows would
	// otherwise be reported as typing errors.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("decoding agent configuration: %w", err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("agent configuration has version %d, this agent reads version %d (injector and agent image must be of the same release)", head.Version, Version)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var a Agent
	if err := dec.Decode(&a); err != nil {
		return nil, fmt.Errorf("decoding agent configuration: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding agent configuration: data after the JSON value")
	}
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return &a, nil
}

// Encode is the inverse of Decode. Every "$" is written as an escape, since
// the kubelet rewrites $(NAME) and $$ in environment values. It is indented,
// since people read it in the pod's spec.
func (a *Agent) Encode() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(a); err != nil {
		return nil, fmt.Errorf("encoding agent configuration: %w", err)
	}
	// In JSON a dollar sign can only stand inside a string.
	return []byte(strings.ReplaceAll(strings.TrimSuffix(buf.String(), "\n"), "$", `\u0024`)), nil
}
