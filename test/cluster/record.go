package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-dev/latchkey/test/cluster/build"
)

// A record says what is in the state folder and who put it there. It is written before anything that must be cleaned up is made.
type record struct {
	Owner       string    `json:"owner"` // the checkout that ran `up`
	Started     time.Time `json:"started"`
	Ready       bool      `json:"ready"`       // `up` came to its end
	Fingerprint string    `json:"fingerprint"` // of the binaries and manifests it was made of
	Init        processID `json:"init"`        // the first process of the box's namespaces
	Controllers []string  `json:"controllers"` // cgroup v2 controllers that were on at the root before
}

func (b Box) readRecord() (*record, error) {
	data, err := os.ReadFile(b.path("box.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the box's record: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return &record{Owner: "unknown"}, nil // torn by a crash: nobody's, and to be cleaned
	}
	return &r, nil
}

func (b Box) writeRecord(r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the box's record: %w", err)
	}
	return writeFile(b.path("box.json"), data, 0o600)
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// A processID names one process for ever: a PID alone is used again, after a reboot at the latest.
type processID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // clock ticks since boot, /proc/PID/stat field 22
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

func identify(pid int) (processID, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processID{}, err
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return processID{}, err
	}
	// The second field is the command in parentheses and may hold anything; from the third on they are plain.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if state := fields[0]; state == "Z" || state == "X" {
		return processID{}, os.ErrProcessDone
	}
	return processID{PID: pid, Start: fields[22-3], Boot: strings.TrimSpace(string(boot))}, nil
}

// alive reports whether this very process still runs.
func (p processID) alive() bool {
	if p.PID == 0 {
		return false
	}
	now, err := identify(p.PID)
	return err == nil && now == p
}

// lock holds off every other `up` and `down` of this box until the returned function is called.
func (b Box) lock(ctx context.Context, log io.Writer) (unlock func(), err error) {
	return build.Lock(ctx, b.dir+".lock", func() { fmt.Fprintln(log, "waiting for another `up` or `down` to end") })
}
