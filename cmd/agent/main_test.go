package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/internal/agent/volume"
	"github.com/latchkey-dev/latchkey/internal/version"
)

// result runs one command to its end.
func result(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

const conf = `{"version":1,"vault":{"address":"http://127.0.0.1:1","auth":{"method":"kubernetes","mount":"kubernetes","role":"payments","tokenPath":"/nonexistent/token"}},
"files":[{"path":"a","template":"{{ . }}","mode":"0400"}],"refresh":"5m","startTimeout":"1s","log":{"format":"text"}}`

func TestVersion(t *testing.T) {
	if code, out, _ := result(t.Context(), "version"); code != 0 || out != version.Version+"\n" {
		t.Errorf("code %d, %q", code, out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"wiat"}, {"--nope"}, {"wait", "--timeout", "3"}, {"wait", "x"}, {"--config", "a", "b"}, {"version", "x"}} {
		if code, out, errs := result(t.Context(), args...); code != 2 || out != "" || errs == "" {
			t.Errorf("%q: code %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
	if code, _, errs := result(t.Context(), "--help"); code != 0 || !strings.Contains(errs, "-volume") {
		t.Errorf("help: code %d, %q", code, errs)
	}
}

// Wait makes the gate and returns 0 when time is up as well: another code
// would make the kubelet kill the agent.
func TestWait(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	if code, _, errs := result(t.Context(), "wait", "--timeout", "50ms", "--volume", dir); code != 0 || errs != "" {
		t.Errorf("code %d, %q", code, errs)
	}
	if d := time.Since(began); d < 50*time.Millisecond {
		t.Errorf("returned after %s", d)
	}
	if target, err := os.Readlink(filepath.Join(dir, "out")); err != nil || target != "nowhere" {
		t.Errorf("gate leads to %q (%v)", target, err)
	}

	v, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Prepare(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Publish(nil); err != nil {
		t.Fatal(err)
	}
	returned := make(chan int)
	go func() {
		code, _, _ := result(t.Context(), "wait", "--timeout", "1m", "--volume", dir)
		returned <- code
	}()
	if err := v.OpenGate(); err != nil {
		t.Fatal(err)
	}
	if code := <-returned; code != 0 {
		t.Errorf("code %d", code)
	}
	if code, out, _ := result(t.Context(), "ready", "--volume", dir); code != 0 || out != "" {
		t.Errorf("ready: code %d, %q", code, out)
	}
}

// With --open the gate is open at once, whatever the agent has done by then;
// the files are still waited for by readiness.
func TestWaitOpen(t *testing.T) {
	for name, before := range map[string]func(*volume.Volume) error{
		"first": func(*volume.Volume) error { return nil }, "guarded": (*volume.Volume).Guard, "prepared": (*volume.Volume).Prepare,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			v, err := volume.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if err := before(v); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if code, out, errs := result(t.Context(), "wait", "--open", "--volume", dir); code != 0 || out+errs != "" {
					t.Errorf("code %d, %q, %q", code, out, errs)
				}
				if info, err := os.Stat(filepath.Join(dir, "out")); err != nil || !info.IsDir() {
					t.Errorf("the gate leads to no directory: %v", err)
				}
			}
			if code, out, _ := result(t.Context(), "ready", "--volume", dir); code != 1 || out == "" {
				t.Errorf("ready without files: code %d, %q", code, out)
			}
			if err := v.Prepare(); err != nil {
				t.Fatal(err)
			}
			if names, err := os.ReadDir(dir); err != nil || len(names) != 3 {
				t.Errorf("left over: %v (%v)", names, err)
			}
		})
	}
}

func TestWaitWithoutGate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := result(t.Context(), "wait", "--timeout", "1m", "--volume", dir); code != 1 || !strings.Contains(errs, "delete the pod") {
		t.Errorf("code %d, %q", code, errs)
	}
	if code, _, errs := result(t.Context(), "wait", "--open", "--volume", dir); code != 1 || !strings.Contains(errs, "delete the pod") {
		t.Errorf("open: code %d, %q", code, errs)
	}
	if code, _, errs := result(t.Context(), "wait", "--volume", filepath.Join(dir, "nope")); code != 1 || errs == "" {
		t.Errorf("code %d, %q", code, errs)
	}
}

// A bad configuration ends with 2, the reason in the termination message, and
// the gate in place.
func TestBadConfiguration(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"field":    {strings.Replace(conf, `"refresh"`, `"refesh"`, 1), `unknown field "refesh"`},
		"version":  {strings.Replace(conf, `"version":1`, `"version":9`, 1), "agent configuration has version 9, this agent reads version 1"},
		"two":      {strings.NewReplacer(`"refresh":"5m"`, `"refresh":"1s"`, `"role":"payments"`, `"role":""`).Replace(conf), "vault.auth.role: empty (the name of a role of the auth method); refresh: 1s (at least 5s)"},
		"template": {strings.Replace(conf, "{{ . }}", "{{ nope }}", 1), `path "a": line 1, column 4: function "nope" not defined`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, words := filepath.Join(dir, "config.json"), filepath.Join(dir, "words")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, _, errs := result(t.Context(), "--config", file, "--volume", dir, "--termination-log", words)
			got, _ := os.ReadFile(words)
			if code != 2 || !strings.Contains(string(got), c.want) || bytes.Count(got, []byte("\n")) != 1 {
				t.Errorf("code %d, stderr %q, last words %q", code, errs, got)
			}
			if _, err := os.Readlink(filepath.Join(dir, "out")); err != nil {
				t.Errorf("no gate: %v", err)
			}
		})
	}
}

func TestNoConfiguration(t *testing.T) {
	dir := t.TempDir()
	if code, _, errs := result(t.Context(), "--volume", dir, "--termination-log", filepath.Join(dir, "words")); code != 2 || !strings.Contains(errs, "LATCHKEY_CONFIG is not set") {
		t.Errorf("code %d, %q", code, errs)
	}
}

// The configuration comes from the environment; what the last try failed on is
// the reason of the end.
func TestStartTimeout(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LATCHKEY_CONFIG", conf)
	words := filepath.Join(dir, "words")
	code, _, _ := result(t.Context(), "--volume", dir, "--termination-log", words)
	got, _ := os.ReadFile(words)
	if code != 1 || !strings.HasPrefix(string(got), "no files after 1s: logging in to http://127.0.0.1:1 at auth/kubernetes with role \"payments\": reading the ServiceAccount token: open /nonexistent/token") {
		t.Errorf("code %d, last words %q", code, got)
	}
	if code, out, _ := result(t.Context(), "ready", "--volume", dir); code != 1 || !strings.Contains(out, "ServiceAccount token") || strings.Count(out, "\n") != 1 {
		t.Errorf("ready: code %d, %q", code, out)
	}
}

// An init container that is told to end before it is done has not succeeded.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LATCHKEY_CONFIG", conf)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	words := filepath.Join(dir, "words")
	code, _, _ := result(ctx, "--once", "--volume", dir, "--termination-log", words)
	if got, _ := os.ReadFile(words); code != 1 || string(got) != "told to end before the files were published\n" {
		t.Errorf("code %d, last words %q", code, got)
	}
}

func TestSignal(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LATCHKEY_CONFIG", strings.Replace(conf, `"startTimeout":"1s"`, `"startTimeout":"1h"`, 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	words := filepath.Join(dir, "words")
	if code, _, errs := result(ctx, "--volume", dir, "--termination-log", words); code != 0 {
		t.Errorf("code %d, %q", code, errs)
	}
	if _, err := os.Stat(words); !os.IsNotExist(err) {
		t.Errorf("last words after a good end: %v", err)
	}
}
