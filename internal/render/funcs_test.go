package render

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Functions that change what they are given change a copy that belongs to one
// execution, since entries share secrets and are rendered at once.
func TestSecretsAreNotChanged(t *testing.T) {
	data := map[string]any{"m": map[string]any{"a": "1"}, "l": []any{map[string]any{"a": "1"}}}
	before, _ := json.Marshal(data)
	s := NewSecret(View{Data: data}, false)
	const text = `{{ $d := (secret "kv/app").Data }}{{ $_ := sprig_set $d.m "b" "2" }}{{ $_ := mergeMapWithOverride $d.m (sprig_dict "a" "9") }}` +
		`{{ $_ := sprig_unset (index $d.l 0) "a" }}{{ (secret "kv/app").Data | toJSON }}`
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r, err := New(config.File{Path: "f", Template: text}, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			result, err := r.Render(func(Request) (*Secret, error) { return s, nil }, "")
			if err != nil {
				t.Error(err)
			} else if got := string(result.Files[0].Content.Reveal()); got != `{"l":[{}],"m":{"a":"9","b":"2"}}` {
				t.Errorf("rendered %s", got)
			}
		})
	}
	wg.Wait()
	if after, _ := json.Marshal(data); !bytes.Equal(before, after) {
		t.Errorf("the secret became %s", after)
	}
}

// The published files stay while what they were made of is the same.
func TestUnsteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(config.File{Path: "f", Template: `{{ with secret "kv/app" }}{{ .Data.k }} {{ .RequestID }}{{ timestamp "unix" }}{{ end }}`}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		answer := func(value, id string) Lookup {
			return func(Request) (*Secret, error) {
				return NewSecret(View{RequestID: id, Data: map[string]any{"k": value}}, false), nil
			}
		}
		first, err := r.Render(answer("a", "1"), "")
		if err != nil || first.Unchanged || first.Inputs == "" {
			t.Fatalf("first: %+v, %v", first, err)
		}
		time.Sleep(time.Hour)
		if again, err := r.Render(answer("a", "2"), first.Inputs); err != nil || !again.Unchanged || again.Files != nil {
			t.Errorf("again: %+v, %v", again, err)
		}
		changed, err := r.Render(answer("b", "3"), first.Inputs)
		if err != nil || changed.Unchanged || changed.Inputs == first.Inputs {
			t.Errorf("changed: %+v, %v", changed, err)
		}
		steady, err := New(config.File{Path: "f", Template: `{{ with secret "kv/app" }}{{ .Data.k }}{{ end }}`}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if result, err := steady.Render(answer("a", "1"), ""); err != nil || result.Inputs != "" {
			t.Errorf("a template that gives the same each time has inputs %q (%v)", result.Inputs, err)
		}
	})
}

// Requests carry what a template asks for: a write where there are parameters,
// if only empty ones.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		template string
		want     Request
	}{
		{`{{ secret "kv/app" }}`, Request{Path: "kv/app"}},
		{`{{ secret "a/b" "k= v = w " "" " l =1" }}`, Request{Path: "a/b", Data: map[string]any{"k": "v = w", "l": "1"}}},
		{`{{ secret "a/b" "" }}`, Request{Path: "a/b", Data: map[string]any{}}},
		{`{{ secrets "kv/team/" }}`, Request{Path: "kv/team/", List: true}},
		{`{{ pkiCert "pki/issue/a" }}`, Request{Path: "pki/issue/a", Data: map[string]any{}}},
	} {
		var got Request
		_, _ = render(t, config.File{Template: c.template}, func(q Request) (*Secret, error) {
			got = q
			return NewSecret(View{Data: map[string]any{}}, false), nil
		})
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(c.want)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: asks for %s, want %s", c.template, a, b)
		}
	}
}

// What is shown is seen, and nothing else.
func TestShow(t *testing.T) {
	t.Setenv("LATCHKEY_SHOWN", "s3cr3t-shown")
	t.Setenv("LATCHKEY_EMPTY", "")
	t.Setenv("LATCHKEY_HIDDEN", "s3cr3t-hidden")
	dir := t.TempDir()
	shown := filepath.Join(dir, "shown")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(shown, "..data"), 0o755),
		os.WriteFile(filepath.Join(shown, "..data", "a"), []byte("text"), 0o644),
		os.Symlink("..data/a", filepath.Join(shown, "a")),
		os.WriteFile(filepath.Join(dir, "hidden"), []byte("s3cr3t-hidden"), 0o644),
		os.Symlink("../hidden", filepath.Join(shown, "out")),
		os.Symlink(filepath.Join(dir, "hidden"), filepath.Join(shown, "far")),
		syscall.Mkfifo(filepath.Join(shown, "pipe"), 0o644),
		os.WriteFile(filepath.Join(shown, "large"), make([]byte, largestShown+1), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ template, want, err string }{
		{`{{ env "LATCHKEY_SHOWN" }} {{ mustEnv "LATCHKEY_SHOWN" }} {{ envOrDefault "LATCHKEY_EMPTY" "d" }} {{ envOrDefault "LATCHKEY_UNSET" "d" }}`, "s3cr3t-shown s3cr3t-shown  d", ""},
		{`{{ $n := "LATCHKEY_HIDDEN" }}{{ env $n }}`, "", `variable "LATCHKEY_HIDDEN" is not shown to templates (shown: LATCHKEY_SHOWN, LATCHKEY_EMPTY, LATCHKEY_UNSET)`},
		{`{{ envOrDefault (printf "LATCHKEY_%s" "HIDDEN") "d" }}`, "", `variable "(what the template made)" is not shown`},
		{`{{ mustEnv "LATCHKEY_EMPTY" }}`, "", `variable "LATCHKEY_EMPTY" is empty`},
		{`{{ file "SHOWN/a" }}{{ file "SHOWN/./a" }}{{ file "" }}`, "texttext", ""},
		{`{{ $f := "SHOWN/../hidden" }}{{ file $f }}`, "", `is not shown to templates (shown: `},
		{`{{ file "SHOWN/out" }}`, "", "is a link that leads out of the directory"},
		{`{{ file "SHOWN/far" }}`, "", "is a link that leads out of the directory"},
		{`{{ file "SHOWN/pipe" }}`, "", "it is no regular file"},
		{`{{ file "SHOWN/large" }}`, "", "it has 1048577 bytes (at most 1048576)"},
		{`{{ file "SHOWN" }}`, "", "it is no regular file"},
	} {
		show := config.Show{Env: []string{"LATCHKEY_SHOWN", "LATCHKEY_EMPTY", "LATCHKEY_UNSET"}, Dirs: []string{shown}}
		text := strings.ReplaceAll(c.template, "SHOWN/", shown+"/")
		text = strings.ReplaceAll(text, `"SHOWN"`, `"`+shown+`"`)
		r, err := New(config.File{Path: "f", Template: text}, Options{Show: show})
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		result, err := r.Render(nil, "")
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "s3cr3t")):
			t.Errorf("%s: got %v, want %s", c.template, err, c.err)
		case c.err == "" && (err != nil || string(result.Files[0].Content.Reveal()) != c.want):
			t.Errorf("%s: %v, want %s", c.template, err, c.want)
		}
	}
}

// Missing keys are errors for fields and index, unless they are allowed.
func TestMissingKeys(t *testing.T) {
	lookup := store(map[string]any{"m": map[string]any{"a": "1"}}, false)
	for _, c := range []struct{ template, strict, lenient string }{
		{`{{ (secret "a").Data.nope }}`, `line 1, column 12: "a": secret has no key "nope"`, "<no value>"},
		{`{{ index (secret "a").Data "m" "nope" }}`, `line 1, column 4: index (secret "a").Data "m" "nope": secret has no key "nope" (sprig_get and sprig_dig give something for it)`, "<no value>"},
		{`{{ define "x" }}{{ .nope }}{{ end }}{{ executeTemplate "x" (secret "a").Data }}`, `line 1, column 20: .nope: secret has no key "nope"`, "<no value>"},
	} {
		_, err := render(t, config.File{Template: c.template}, lookup)
		if err == nil || err.Error() != c.strict {
			t.Errorf("%s: got %v\nwant %s", c.template, err, c.strict)
		}
		got, err := render(t, config.File{Template: c.template, AllowMissingKeys: true}, lookup)
		if err != nil || got != c.lenient {
			t.Errorf("%s: missing keys allowed: %q, %v", c.template, got, err)
		}
	}
}

// A template that calls itself ends, and does not take the agent with it.
func TestExecuteTemplateWithoutEnd(t *testing.T) {
	_, err := render(t, config.File{Template: `{{ define "x" }}{{ executeTemplate "x" }}{{ end }}{{ executeTemplate "x" }}`}, nil)
	if err == nil || !strings.HasSuffix(err.Error(), "executeTemplate calls itself more than 100 times") {
		t.Errorf("got %v", err)
	}
}

// The default route's interface is found where the program ip is not.
func TestDefaultDevice(t *testing.T) {
	table := filepath.Join(t.TempDir(), "route")
	head := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for _, c := range []struct{ routes, want string }{
		{"eth1\t0000640A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\neth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "eth0"},
		{"eth1\t0000640A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", ""},
	} {
		if err := os.WriteFile(table, []byte(head+c.routes), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := defaultDevice(table)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}
