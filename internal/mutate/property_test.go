package mutate

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
)

// The rules for the patch. Each holds for every case of testdata.

// P1: only additions, in a fixed order; and moves of the agent's own container,
// each behind a test that it is that one.
func TestPatchIsAdditive(t *testing.T) {
	order := []string{"/spec/volumes", "/spec/imagePullSecrets", "/spec/initContainers", "/spec/containers/", "/metadata/annotations"}
	rank := func(path string) int {
		for i, prefix := range order {
			if strings.HasPrefix(path, prefix) {
				return i
			}
		}
		return -1
	}
	eachInjected(t, func(t *testing.T, c golden, out *Outcome) {
		last := 0
		for i, op := range out.Ops {
			r := rank(op.Path)
			switch op.Op {
			case "add":
			case "test":
				if i+1 == len(out.Ops) || out.Ops[i+1].Op != "move" {
					t.Errorf("test of %s guards nothing", op.Path)
				}
			case "move":
				if i == 0 || out.Ops[i-1].Op != "test" || out.Ops[i-1].Path != op.From+"/name" || out.Ops[i-1].Value != "latchkey-agent" {
					t.Errorf("move of %s is not of the agent for certain", op.From)
				}
			default:
				t.Errorf("operation %q", op.Op)
			}
			if r < last {
				t.Errorf("operation %s %s is out of order", op.Op, op.Path)
			}
			last = max(last, r)
		}
	})
}

// P2: the operations, applied to the raw JSON, make exactly the pod that
// Inject returns, and all that was in it, known to this build or not, is still
// there and in place.
func TestPatchMakesTheInjectedPod(t *testing.T) {
	eachInjected(t, func(t *testing.T, c golden, out *Outcome) {
		patched := apply(t, c.object, out.Ops)
		var got corev1.Pod
		if err := kjson.UnmarshalCaseSensitivePreserveInts(patched, &got); err != nil {
			t.Fatal(err)
		}
		if g, w := marshal(t, &got), marshal(t, out.Result); !bytes.Equal(g, w) {
			t.Errorf("the patched pod is not the injected one:\n%s\n%s", g, w)
		}
		kept(t, "", decode(t, c.object), decode(t, patched))
	})
}

// kept reports everything of before that is not in after. Lists may have grown
// by what bears our names.
func kept(t *testing.T, at string, before, after any) {
	t.Helper()
	switch b := before.(type) {
	case nil:
		// A null list is no list: it may have become one.
	case map[string]any:
		a, _ := after.(map[string]any)
		for name := range b {
			if _, ok := a[name]; !ok {
				t.Errorf("%s/%s is gone", at, name)
				continue
			}
			kept(t, at+"/"+name, b[name], a[name])
		}
	case []any:
		a, _ := after.([]any)
		b, ours := split(b)
		a, nowOurs := split(a)
		if len(a) != len(b) {
			t.Errorf("%s had %d items, and has %d that are not ours", at, len(b), len(a))
			return
		}
		for i := range b {
			kept(t, at+"/"+strconv.Itoa(i), b[i], a[i])
		}
		for name := range ours {
			kept(t, at+"/"+name, ours[name], nowOurs[name])
		}
	default:
		if !reflect.DeepEqual(before, after) {
			t.Errorf("%s was %v and is %v", at, before, after)
		}
	}
}

// split tells the items of a list that bear our names, wherever they stand, from
// the rest.
func split(list []any) (rest []any, ours map[string]any) {
	ours = make(map[string]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok && strings.HasPrefix(fmt.Sprint(m["name"]), "latchkey-") && ours[fmt.Sprint(m["name"])] == nil {
			ours[fmt.Sprint(m["name"])] = item
			continue
		}
		rest = append(rest, item)
	}
	return rest, ours
}

// P3: injecting the result again changes nothing, also with all that the API
// server and other webhooks do to it in between, and reaches a named container
// that was added in between.
func TestInjectingAgainChangesNothing(t *testing.T) {
	eachInjected(t, func(t *testing.T, c golden, out *Outcome) {
		patched := apply(t, c.object, out.Ops)
		unchanged(t, c, patched, c.cfg)
		unchanged(t, c, reinvoked(t, patched), c.cfg)

		late := edit(t, patched, func(pod map[string]any) {
			spec := pod["spec"].(map[string]any)
			spec["containers"] = append(spec["containers"].([]any), map[string]any{"name": "came-late", "image": "late:1"})
		})
		unchanged(t, c, late, c.cfg)

		last := len(decode(t, late).(map[string]any)["spec"].(map[string]any)["containers"].([]any)) - 1
		late = edit(t, late, func(pod map[string]any) {
			notes := pod["metadata"].(map[string]any)["annotations"].(map[string]any)
			notes[Prefix+"containers"] = "came-late"
		})
		again := Mutate(NewPod(c.req.Namespace, late), c.cfg)
		wantPath := fmt.Sprintf("/spec/containers/%d/volumeMounts", last)
		if again.Decision != Injected || again.Reason != MissingMounts || len(again.Ops) != 1 || again.Ops[0].Path != wantPath {
			t.Fatalf("a named container that came later: %s (%s) %v %v", again.Decision, again.Reason, again.Problems, again.Ops)
		}
		mounts := again.Ops[0].Value.([]corev1.VolumeMount)

		inits := edit(t, patched, func(pod map[string]any) {
			spec := pod["spec"].(map[string]any)
			spec["initContainers"] = append(spec["initContainers"].([]any), map[string]any{"name": "came-late", "image": "late:1"})
			pod["metadata"].(map[string]any)["annotations"].(map[string]any)[Prefix+"init-containers"] = "came-late"
		})
		reached := Mutate(NewPod(c.req.Namespace, inits), c.cfg)
		if reached.Decision != Injected || len(reached.Ops) != 1 || !strings.HasPrefix(reached.Ops[0].Path, "/spec/initContainers/") {
			t.Errorf("a named init container that came later: %s (%s) %v %v", reached.Decision, reached.Reason, reached.Problems, reached.Ops)
		}
		if mounts[0].SubPath != "out" || !mounts[0].ReadOnly || mounts[0].MountPath != existingMountPath(out.Result) {
			t.Errorf("the late container's mount: %+v", mounts[0])
		}
	})
}

func unchanged(t *testing.T, c golden, raw []byte, cfg *Config) {
	t.Helper()
	again := Mutate(NewPod(c.req.Namespace, raw), cfg)
	if again.Decision != Skipped || again.Reason != AlreadyInjected || len(again.Ops) != 0 {
		t.Errorf("injecting again: %s (%s) %v %v", again.Decision, again.Reason, again.Problems, again.Ops)
	}
	if w := edited(again); w != "" {
		t.Errorf("injecting again warns of an edit: %s", w)
	}
}

// edited is a warning of annotations that nothing comes of.
func edited(out *Outcome) string {
	for _, w := range out.Warnings {
		if strings.Contains(w, "; the agent is kept as it is") {
			return w
		}
	}
	return ""
}

// Who edits the annotations of a pod that has its agent is told that nothing
// comes of it, by any replica; and gets the pod nevertheless.
func TestEditedAnnotationsAreWarnedOf(t *testing.T) {
	cfg, err := ParseConfig([]byte(`connections: {elsewhere: {address: "https://other.example", allowedNamespaces: [nowhere]}}`))
	if err != nil {
		t.Fatal(err)
	}
	eachInjected(t, func(t *testing.T, c golden, out *Outcome) {
		if out.Reason != AskedFor {
			return // the annotations of other versions may be others
		}
		patched := apply(t, c.object, out.Ops)
		for name, value := range map[string]string{
			"files":     "[{path: another, secret: kv/app, format: json}]",
			"role":      "another",
			"refresh":   "soon",
			"file":      "[]",
			"inject":    "maybe",
			"lifecycle": "job",
		} {
			pod := edit(t, patched, func(pod map[string]any) {
				pod["metadata"].(map[string]any)["annotations"].(map[string]any)[Prefix+name] = value
			})
			for _, cfg := range []*Config{c.cfg, cfg} {
				again := Mutate(NewPod(c.req.Namespace, pod), cfg)
				w := edited(again)
				if again.Decision != Skipped || !strings.HasPrefix(w, Prefix+name+": ") {
					t.Errorf("edited %s: %s (%s) %v, warned %q", name, again.Decision, again.Reason, again.Problems, w)
				}
			}
		}
	})
}

// P4: the same input gives the same bytes.
func TestPatchIsDeterministic(t *testing.T) {
	for _, c := range goldens(t) {
		first := encodeWant(t, Mutate(c.req, c.cfg))
		problems := Mutate(c.req, c.cfg).Problems
		for range 100 {
			out := Mutate(c.req, c.cfg)
			if !bytes.Equal(encodeWant(t, out), first) || !reflect.DeepEqual(out.Problems, problems) {
				t.Fatalf("%s: differs from run to run", c.name)
			}
		}
	}
}

// P5: an agent of ours is kept, whichever version and operator's configuration
// made it; anything else under our names is denied.
func TestOursIsKeptAndTheRestDenied(t *testing.T) {
	other, err := ParseConfig([]byte(`
agentImage: registry.example/latchkey-agent:9
connections: {elsewhere: {address: "https://other.example", allowedNamespaces: [nowhere]}}
defaults: {mountPath: /elsewhere, refresh: 1h, startTimeout: 1h, resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	eachInjected(t, func(t *testing.T, c golden, out *Outcome) {
		patched := apply(t, c.object, out.Ops)
		unchanged(t, c, patched, other)
		unchanged(t, c, bytes.ReplaceAll(patched, []byte(`\"version\": 1,`), []byte(`\"version\": 7, \"new\": true,`)), other)

		mount := func(raw []byte, volume, subPath string, readOnly bool) []byte {
			return edit(t, raw, func(pod map[string]any) {
				app := pod["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
				mounts, _ := app["volumeMounts"].([]any)
				app["volumeMounts"] = append(mounts, map[string]any{"name": volume, "mountPath": "/loot", "subPath": subPath, "readOnly": readOnly})
			})
		}
		denied(t, c, mount(patched, "latchkey-identity", "", true))
		denied(t, c, mount(patched, "latchkey-secrets", "", true))
		denied(t, c, mount(patched, "latchkey-secrets", "private", true))
		denied(t, c, mount(patched, "latchkey-secrets", "out", false))
		if out.Reason == AskedFor {
			denied(t, c, mount(c.object, "latchkey-secrets", "out", true))
			denied(t, c, mount(c.object, "latchkey-identity", "", true))
		}
		denied(t, c, bytes.Replace(mount(patched, "latchkey-secrets", "out", true), []byte(`"subPath":"out"`), []byte(`"subPath":"out","subPathExpr":"$(X)"`), -1))
		// Volumes of ours that are something else, or not there.
		for _, name := range []string{"latchkey-identity", "latchkey-secrets"} {
			for _, other := range []map[string]any{{"name": name, "hostPath": map[string]any{"path": "/"}}, {"name": "other"}} {
				denied(t, c, edit(t, patched, func(pod map[string]any) {
					volumes := pod["spec"].(map[string]any)["volumes"].([]any)
					for i := range volumes {
						if volumes[i].(map[string]any)["name"] == name {
							volumes[i] = other
						}
					}
				}))
			}
		}
		denied(t, c, bytes.ReplaceAll(patched, []byte(`\"address\": `), []byte(`\"addr\": `)))
		denied(t, c, edit(t, patched, func(pod map[string]any) {
			for _, item := range pod["spec"].(map[string]any)["initContainers"].([]any) {
				if ct := item.(map[string]any); ct["name"] == "latchkey-agent" {
					ct["env"] = []any{map[string]any{"name": "LATCHKEY_CONFIG", "value": "{}"}}
				}
			}
		}))
	})
}

// P6: nobody waits for files that nobody can publish. The agent stands before
// every init container that gets them, also in the pods that others changed,
// and behind what gives it its network, unless a warning says that it cannot.
func TestAgentStandsBeforeItsReaders(t *testing.T) {
	for _, c := range goldens(t) {
		out := Mutate(c.req, c.cfg)
		pod := out.Result
		if out.Decision == Skipped && out.Reason == AlreadyInjected {
			pod = out.Pod
		}
		if pod == nil {
			continue
		}
		at := agentIndex(pod)
		for i := range pod.Spec.InitContainers {
			ct := &pod.Spec.InitContainers[i]
			if i < at && secretsMount(ct) != nil {
				t.Errorf("%s: init container %q gets the files and stands before the agent", c.name, ct.Name)
			}
			if i > at && isNative(ct) && slices.Contains(c.cfg.MeshProxies, ct.Name) && len(out.Warnings) == 0 {
				t.Errorf("%s: the agent has no network before %q", c.name, ct.Name)
			}
		}
	}
}

func denied(t *testing.T, c golden, raw []byte) {
	t.Helper()
	if out := Mutate(NewPod(c.req.Namespace, raw), c.cfg); out.Decision != Denied || len(out.Problems) == 0 {
		t.Errorf("%s (%s), want it denied", out.Decision, out.Reason)
	}
}

func eachInjected(t *testing.T, check func(*testing.T, golden, *Outcome)) {
	t.Helper()
	n := 0
	for _, c := range goldens(t) {
		out := Mutate(c.req, c.cfg)
		if out.Decision != Injected {
			continue
		}
		n++
		t.Run(c.name, func(t *testing.T) { check(t, c, out) })
	}
	if n < 78 {
		t.Errorf("only %d cases are injected", n)
	}
}
