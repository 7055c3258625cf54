package mutate

import (
	"fmt"
	"strings"
	"testing"
)

// many joins n formatted numbers.
func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// What anybody may ask costs little to answer: each of these once took seconds
// or gigabytes, and this test would take minutes if one did so again.
func TestHostilePodsAreAnsweredBriefly(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	colliding := func() string {
		var b strings.Builder
		for i := range 500 {
			fmt.Fprintf(&b, "- {path: %sa, template: a}\n", strings.Repeat("a/", i))
		}
		return b.String()
	}
	containers := func(n int) string {
		return strings.TrimSuffix(many(n, `{"name":"c%060d","securityContext":{"runAsUser":7}},`), ",")
	}
	const one = `{"name":"app"}`
	for name, c := range map[string]struct{ row, value, containers, want string }{
		"annotation of 3 MiB":       {"files", strings.Repeat("x", 3<<20), one, "metadata.annotations: "},
		"annotation's name, 3 MiB":  {strings.Repeat("x", 3<<20), "", one, "metadata.annotations: "},
		"30000 containers":          {"role", "app", containers(30000), "spec.containers: 30000"},
		"annotation's name":         {strings.Repeat("x", 200<<10), "", one, "unknown annotation"},
		"60000 names":               {"containers", many(60000, "%x,")[:250<<10], one, "more than 500 names"},
		"490 unknown names":         {"containers", many(490, "%061d,"), containers(490), "is unknown"},
		"aliases to a string":       {"files", "- &a " + long + "\n- [" + strings.Repeat("*a,", 40_000) + "]", one, "aliases"},
		"aliases as keys":           {"files", "- &a " + long + "\n- {" + strings.Repeat("?*a,", 30_000) + "}", one, "aliases"},
		"aliases to a map":          {"files", "- &a {path: " + long + "}\n" + strings.Repeat("- {<<: *a}\n", 10_000), one, "aliases"},
		"many keys":                 {"files", "[{" + many(40_000, "%x,") + "}]", one, "unknown key"},
		"one key many times":        {"files", "[{" + strings.Repeat("a,", 100_000) + "}]", one, "more than once"},
		"deep lists":                {"files", strings.Repeat("[", 200_000), one, "max depth"},
		"deep maps":                 {"files", strings.Repeat("- ? ", 4_000), one, "unknown key"},
		"paths below each other":    {"files", colliding(), one, "lies below"},
		"many faulty templates":     {"files", strings.Repeat("- {path: x, template: '{{ nope }}"+long[:1300]+"'}\n", 180), one, "not defined"},
		"many unknown functions":    {"files", "- {path: x, template: '" + strings.Repeat("{{x}}", 50_000) + "'}", one, "not defined"},
		"deep template":             {"files", "- {path: x, template: '" + strings.Repeat("{{if 1}}", 30_000) + "'}", one, "unexpected EOF"},
		"parentheses in a template": {"files", "- {path: x, template: '{{" + strings.Repeat("(", 200_000) + "'}", one, "max expression depth"},
		"sets in a deep directory": {"files", func() string {
			var b strings.Builder
			for i := range 100 {
				fmt.Fprintf(&b, "- {path: %s%d, secret: a, files: {%s}}\n", strings.Repeat("a/", 500), i, many(150, "f%d: k, "))
			}
			return b.String()
		}(), one, "the paths of all files come to"},
		"sets below a long path":    {"files", "- {path: " + long + ", secret: a, files: {" + many(12_000, "..%d: k, ") + "}}", one, "is too long"},
		"bad names in a set":        {"files", "- {path: " + strings.Repeat("x", 200) + ", secret: a, files: {" + many(20_000, "..%d: k, ") + "}}", one, "is not allowed"},
		"parameters of a write":     {"files", "- {path: a, secret: a, format: json, data: {" + many(20_000, "p%d: {}, ") + "}}", one, "has data with a map"},
		"deep parameters":           {"files", "- {path: a, secret: a, format: json, data: {p: " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + "}}", one, "has data with a map"},
		"one parameter many times":  {"files", "- {path: a, secret: a, format: json, data: {" + strings.Repeat("p: 1, ", 20_000) + "}}", one, "more than once"},
		"many notifications":        {"notify", strings.Repeat("- {http: {url: 'http://vault/'}}\n", 7_000), one, "leaves the pod"},
		"many good notifications":   {"notify", strings.Repeat("- {signal: {process: a}}\n", 9_000), one, "shareProcessNamespace"},
		"aliases in a notification": {"notify", "- &a {url: " + long + "}\n- {http: *a}", one, "aliases"},
		"aliases in the token file": {"token-file", "{path: &a " + long + ", format: *a}", one, "aliases"},
		"long path of the token":    {"token-file", strings.Repeat("a/", 100_000), one, "is too long"},
		"long audience":             {"audience", long, one, "at most 512 bytes"},
		"long quantity":             {"requests-cpu", strings.Repeat("9", 200_000), one, "a quantity"},
		"huge exponent":             {"limits-memory", "1e999999999", one, "a quantity"},
		"490 init containers":       {"init-containers", many(490, "%061d,"), containers(490), "is unknown"},
		"unreadable modes":          {"files", many(5000, "- {path: f%d, template: a, mode: '0400'}\n"), containers(490), ""},
	} {
		t.Run(name, func(t *testing.T) {
			notes := map[string]any{Prefix + "inject": "true", Prefix + "role": "app", Prefix + "files": "[{path: a, secret: kv/a, format: json}]"}
			notes[Prefix+c.row] = c.value
			pod := fmt.Sprintf(`{"metadata":{"annotations":%s},"spec":{"containers":[%s]}}`, marshal(t, notes), c.containers)
			r := post(t, quiet(), "application/json", sent(t, "shop", []byte(pod))).Response
			if r.Allowed != (c.want == "") {
				t.Fatalf("allowed is %v: %+v", r.Allowed, r.Result)
			}
			told := strings.Join(r.Warnings, "\n")
			if r.Result != nil {
				told += r.Result.Message
			}
			if !strings.Contains(told, c.want) || len(told) > 64<<10 {
				t.Errorf("told %d bytes: %.200s", len(told), told)
			}
		})
	}
}

// What the pod's author writes cannot steer the terminal of whoever reads why
// it was refused, or look like a line of its own.
func TestProblemsAreVisible(t *testing.T) {
	pod := `{"metadata":{"annotations":{"latchkey.dev/inject":"true","latchkey.dev/a\u001b[2Jb\nc":"","latchkey.dev/role":"\u202ex\u0000"}},"spec":{"containers":[{"name":"a\u009b1m\r"},{"name":"latchkey-agent"}]}}`
	out := Mutate(NewPod("shop", []byte(pod)), DefaultConfig())
	if out.Decision != Denied || len(out.Problems) < 4 {
		t.Fatalf("%s: %q", out.Decision, out.Problems)
	}
	for _, p := range out.Problems {
		if strings.ContainsAny(p, "\x00\x1b\r\n\u009b\u202e") {
			t.Errorf("problem %q", p)
		}
	}
}
