package check

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"
)

// lines are results as they are printed.
func lines(results []Result) string {
	var b strings.Builder
	for _, r := range results {
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}

// want compares what is printed with its beginning and with parts of it.
func want(t *testing.T, name string, results []Result, begins string, parts ...string) {
	t.Helper()
	got := lines(results)
	if !strings.HasPrefix(got, begins) {
		t.Errorf("%s: got %s\twant it to begin with %q", name, got, begins)
	}
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: no %q in %s", name, part, got)
		}
	}
}

func TestRun(t *testing.T) {
	says := func(results []Result) func(context.Context, *env) []Result {
		return func(context.Context, *env) []Result { return results }
	}
	var out bytes.Buffer
	err := run(t.Context(), []check{
		{"one", false, nil, says(ok("fine"))},
		{"two", false, []string{"one"}, says(fail("mend it", "line\nbreak"))},
		{"three", false, []string{"two"}, says(ok("never asked"))},
		{"four", false, []string{"three"}, says(ok("never asked"))},
		{"five", true, nil, says(ok("never asked"))},
		{"six", false, []string{"one"}, says(named("six a", notChecked("no right")))},
		{"seven", false, []string{"six"}, says(ok("asked all the same"))},
	}, &env{}, &out)
	const printed = `ok    one: fine
FAIL  two: line break (mend it)
-     three: not checked: two has to work first
-     four: not checked: three has to work first
-     five: not checked: there is no API server to ask
-     six a: not checked: no right
ok    seven: asked all the same
`
	if out.String() != printed {
		t.Errorf("printed\n%swant\n%s", out.String(), printed)
	}
	if err == nil || err.Error() != "1 failed, 2 ok, 4 not checked" {
		t.Errorf("error %v", err)
	}
}

func TestRunEnds(t *testing.T) {
	fine := check{"one", true, nil, func(context.Context, *env) []Result { return ok("fine") }}
	var out bytes.Buffer
	if err := run(t.Context(), []check{fine}, &env{kube: fake.NewClientset()}, &out); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out.Reset()
	err := run(ctx, []check{fine}, &env{kube: fake.NewClientset()}, &out)
	if err == nil || out.String() != "-     one: not checked: interrupted\n" {
		t.Errorf("interrupted: %v\n%s", err, out.String())
	}
}

// What went well is no answer for what there was no time for.
func TestRunOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := func(ctx context.Context, _ *env) []Result {
			<-ctx.Done()
			return ok("fine")
		}
		var out bytes.Buffer
		err := run(ctx, []check{{"one", false, nil, slow}, {"two", false, nil, slow}}, &env{Options: Options{Timeout: time.Second}}, &out)
		if err == nil || out.String() != "ok    one: fine\n-     two: not checked: there is no time left (--timeout 1s)\n" {
			t.Errorf("error %v after\n%s", err, out.String())
		}
	})
}

// Every check that is needed is there, and comes first.
func TestChecksAreInOrder(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range checks {
		for _, need := range c.needs {
			if !seen[need] {
				t.Errorf("%s needs %s, which does not come before it", c.name, need)
			}
		}
		seen[c.name] = true
	}
}

func TestLinesAreShort(t *testing.T) {
	got := fail("", "%s", strings.Repeat("é\x1b[2J\u202e", 5000))[0].String()
	if len(got) > longest+100 || strings.ContainsAny(got, "\x1b\u202e") {
		t.Errorf("a line of %d bytes: %.80q", len(got), got)
	}
}
