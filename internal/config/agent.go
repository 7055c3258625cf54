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
	"path"
	"slices"
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

// The lifecycles of Agent.Lifecycle.
const (
	// Native is a native sidecar that holds the app back until the first files
	// are published.
	Native = "native"
	// Init publishes once, before the app starts, and ends.
	Init = "init"
	// Sidecar is Native without holding the app back.
	Sidecar = "sidecar"
)

// Agent is the agent's whole configuration.
type Agent struct {
	// Version of this contract; see the constant of the same name.
	Version int `json:"version"`
	// Lifecycle is Native, which is also what empty means, Init or Sidecar.
	Lifecycle string `json:"lifecycle,omitempty"`
	Vault     Vault  `json:"vault"`
	// Files to publish, in the order in which the pod's author named them.
	Files []File `json:"files,omitempty"`
	// Show is what the functions env and file of templates may see.
	Show Show `json:"show,omitzero"`
	// TokenFile publishes the Vault token itself, for apps that want it.
	TokenFile *TokenFile `json:"tokenFile,omitempty"`
	// Notify lists whom to tell of each publication but the first that changed
	// bytes.
	Notify []Notification `json:"notify,omitempty"`
	// Serve is an address with a port, such as ":9102", for probes and metrics,
	// without anything secret in them. Empty, and Init, serve none.
	Serve string `json:"serve,omitempty"`
	// Local is what the agent offers to the apps of its pod.
	Local *Local `json:"local,omitempty"`
	// RevokeOnExit says whether the token is revoked when the agent ends. None
	// leaves it to the lifecycle: Native and Sidecar revoke, unless apps may be
	// using the token itself (Lends). Init revokes where nothing has a lease and
	// there is no TokenFile; true changes nothing there.
	RevokeOnExit *bool `json:"revokeOnExit,omitempty"`
	// RetireGrace is how long a replaced token, on which leases hang that apps
	// used, stays good after all were told of the files that replaced them; 0 is
	// 5 minutes. Revoking it cuts sessions that apps have open under the old leases.
	RetireGrace Duration `json:"retireGrace,omitzero"`
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
	// ClientCert and ClientKey are the paths of PEM files with which the agent
	// shows the server who it is; both or neither.
	ClientCert string `json:"clientCert,omitempty"`
	ClientKey  string `json:"clientKey,omitempty"`
	// Proxy is the URL of an HTTP proxy, without credentials.
	Proxy string `json:"proxy,omitempty"`
	// Timeout bounds one call, from dialling to the last byte; 0 is 20 s.
	Timeout Duration `json:"timeout,omitzero"`
	// Headers are sent with each call. They hold no credentials.
	Headers map[string]string `json:"headers,omitempty"`
	// Namespace of the secrets (Vault Enterprise, OpenBao).
	Namespace string `json:"namespace,omitempty"`
	Auth      Auth   `json:"auth"`
}

// File is one entry of what to publish: a template, a secret in a ready-made
// format, or several files from one secret's answer, which change together.
type File struct {
	// Path below the mount path: slash-separated, relative, clean. With Files
	// it is the directory in which they lie.
	Path string `json:"path"`
	// Template is a text/template. It excludes what is about a secret.
	Template string `json:"template,omitempty"`
	// Secret is the API path to read; on a KV v2 mount "kv/app" and
	// "kv/data/app" are the same secret.
	Secret string `json:"secret,omitempty"`
	// Data makes a write of it, with these parameters: scalars and lists of
	// them. It lies in the pod's spec, so it holds no secrets.
	Data map[string]any `json:"data,omitempty"`
	// Format is one of the Format constants; beside Files, FormatPEM or none.
	Format string `json:"format,omitempty"`
	// Key is the one key that FormatRaw writes, or the keys joined by "+" that
	// FormatPEM does.
	Key string `json:"key,omitempty"`
	// Files maps names of files below Path to the keys whose exact bytes they
	// hold; with FormatPEM, to keys as in Key.
	Files map[string]string `json:"files,omitempty"`
	// KV is the version of the KV engine at Secret, 1 or 2; 0 asks Vault.
	KV int `json:"kv,omitempty"`
	// Mode is the permission bits of each file of the entry.
	Mode Mode `json:"mode"`
	// Optional entries are left out while their secret does not exist.
	Optional bool `json:"optional,omitempty"`
	// Refresh replaces Agent.Refresh for this entry; 0 does not.
	Refresh Duration `json:"refresh,omitzero"`
	// AllowMissingKeys makes a template print "<no value>" for a field that a
	// secret lacks, which is an error otherwise.
	AllowMissingKeys bool `json:"allowMissingKeys,omitempty"`
}

// Show is what templates may see beside Vault's answers.
type Show struct {
	// Env are names of variables of the agent's environment.
	Env []string `json:"env,omitempty"`
	// Dirs are absolute paths of directories whose files may be read.
	Dirs []string `json:"dirs,omitempty"`
}

// Paths are the files of the entry, sorted.
func (f *File) Paths() []string {
	if len(f.Files) == 0 {
		return []string{f.Path}
	}
	paths := make([]string, 0, len(f.Files))
	for name := range f.Files {
		paths = append(paths, f.Path+"/"+name)
	}
	slices.Sort(paths)
	return paths
}

// The formats of File.Format.
const (
	FormatEnv        = "env"        // sorted KEY='value' lines, quoted for a POSIX shell
	FormatJSON       = "json"       // sorted, indented, with a final newline
	FormatYAML       = "yaml"       // sorted, strings quoted, with a final newline
	FormatProperties = "properties" // sorted key=value lines, escaped for java.util.Properties
	FormatRaw        = "raw"        // the exact bytes of one key
	FormatPEM        = "pem"        // the PEM blocks of one or more keys
)

// Formats are the formats of File.Format, for messages.
const Formats = "env, json, yaml, properties, raw, pem"

// TokenFile is a published file that holds the agent's Vault token.
type TokenFile struct {
	// Path below the mount path, as that of a File.
	Path string `json:"path"`
	// Format is TokenRaw, which is also what empty means, or TokenJSON.
	Format string `json:"format,omitempty"`
	// Mode is that of CAPath as well.
	Mode Mode `json:"mode"`
	// CA publishes the CA that the agent trusts Vault by at CAPath, unless that
	// is the system's.
	CA bool `json:"ca,omitempty"`
	// WrapTTL publishes a response-wrapping token of this life instead, in which
	// the token is; 0 does not. One that is unwrapped, or may be, is replaced
	// when two thirds of its life are over.
	WrapTTL Duration `json:"wrapTTL,omitzero"`
}

// CAPath is where the CA lies: beside the token.
func (t *TokenFile) CAPath() string { return path.Join(path.Dir(t.Path), "ca.crt") }

// The formats of TokenFile.Format.
const (
	// TokenRaw is the token alone, without a newline.
	TokenRaw = "raw"
	// TokenJSON is an object of clientToken, accessor, leaseDuration (seconds),
	// renewable and vaultAddr, which programs made for Kubernetes-Vault read. Of
	// a wrapping token it is Vault's wrap_info, which programs read that are made
	// for the sinks of Vault Agent.
	TokenJSON = "json"
)

// Notification is one way to tell the app that its files have changed: exactly
// one of the fields is set.
type Notification struct {
	HTTP   *HTTPRequest   `json:"http,omitempty"`
	Signal *ProcessSignal `json:"signal,omitempty"`
}

// HTTPRequest is sent to a port of the pod; any status of 2xx is success.
type HTTPRequest struct {
	// URL with http or https and a loopback host.
	URL string `json:"url"`
	// Method is POST where it is empty.
	Method string `json:"method,omitempty"`
}

// ProcessSignal is sent to every process of a name. Pods need
// shareProcessNamespace for it, and the process the agent's user.
type ProcessSignal struct {
	// Process is the name of its executable, without directories.
	Process string `json:"process"`
	// Signal is a name of Signals; empty is SIGHUP.
	Signal string `json:"signal,omitempty"`
}

// Signals are those that a program can be asked to reload by.
var Signals = []string{"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT", "SIGQUIT", "SIGWINCH"}

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
	dec.UseNumber() // in File.Data; elsewhere it changes nothing
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
