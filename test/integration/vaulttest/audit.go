package vaulttest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// An Entry is one request as Vault's audit log saw it answered.
type Entry struct {
	Time      time.Time
	Operation string // read, update, delete, …
	Path      string // such as kv/data/app
	Role      string // of the login; empty where it was refused
	Accessor  string // of the token that asked, or that a login made
	Error     string
}

func (e Entry) String() string { return e.Operation + " " + e.Path }

func (v *Vault) auditFile() string { return filepath.Join(v.dir, "audit.log") }

// Audit is what everybody but the root token asked of Vault, oldest first.
func (v *Vault) Audit() []Entry {
	v.t.Helper()
	log, err := os.ReadFile(v.auditFile())
	if err != nil {
		v.t.Error(err)
	}
	var entries []Entry
	for line := range bytes.Lines(log) {
		var l struct {
			Time time.Time
			Type string
			Auth struct {
				Accessor    string
				DisplayName string `json:"display_name"`
				Metadata    map[string]string
			}
			Request struct{ Operation, Path string }
			Error   string
		}
		// A last line may be half written.
		if json.Unmarshal(line, &l) != nil || l.Type != "response" || l.Auth.DisplayName == "root" {
			continue
		}
		entries = append(entries, Entry{l.Time, l.Request.Operation, l.Request.Path, l.Auth.Metadata["role"], l.Auth.Accessor, l.Error})
	}
	return entries
}

// Calls is Audit with each request as "operation path".
func (v *Vault) Calls() []string {
	v.t.Helper()
	var calls []string
	for _, e := range v.Audit() {
		calls = append(calls, e.String())
	}
	return calls
}

// Count is how many requests there were for a call, such as
// "update auth/kubernetes/login", the refused ones included.
func (v *Vault) Count(call string) int {
	v.t.Helper()
	n := 0
	for _, c := range v.Calls() {
		if c == call {
			n++
		}
	}
	return n
}
