package mutate

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reinvoked does to an injected pod what an API server was seen to do before
// it calls the webhook a second time: defaults, the limits of a LimitRange,
// and the ServiceAccount's token for each container without one.
func reinvoked(t *testing.T, raw []byte) []byte {
	return edit(t, raw, func(pod map[string]any) {
		spec := pod["spec"].(map[string]any)
		const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"
		volumes := spec["volumes"].([]any)
		for _, v := range volumes {
			if projected, ok := v.(map[string]any)["projected"].(map[string]any); ok && projected["defaultMode"] == nil {
				projected["defaultMode"] = 420
			}
		}
		spec["volumes"] = append(volumes, map[string]any{"name": "kube-api-access-x7x2k", "projected": map[string]any{"defaultMode": 420, "sources": []any{}}})
		for _, list := range []string{"initContainers", "containers"} {
			items, _ := spec[list].([]any)
			for _, item := range items {
				ct := item.(map[string]any)
				for name, value := range map[string]any{
					"terminationMessagePath":   "/dev/termination-log",
					"terminationMessagePolicy": "File",
					"imagePullPolicy":          "IfNotPresent",
				} {
					if ct[name] == nil {
						ct[name] = value
					}
				}
				ct["resources"] = map[string]any{
					"limits":   map[string]any{"cpu": "500m", "memory": "128Mi"},
					"requests": map[string]any{"cpu": "250m", "memory": "64Mi"},
				}
				env, _ := ct["env"].([]any)
				ct["env"] = append(env, map[string]any{"name": "POD_IP", "valueFrom": map[string]any{
					"fieldRef": map[string]any{"apiVersion": "v1", "fieldPath": "status.podIP"},
				}})
				mounts, _ := ct["volumeMounts"].([]any)
				has := false
				for _, m := range mounts {
					has = has || m.(map[string]any)["mountPath"] == tokenDir
				}
				if !has {
					ct["volumeMounts"] = append(mounts, map[string]any{"name": "kube-api-access-x7x2k", "mountPath": tokenDir, "readOnly": true})
				}
				if probe, ok := ct["readinessProbe"].(map[string]any); ok {
					probe["successThreshold"], probe["failureThreshold"] = 1, 3
				}
			}
		}
	})
}

func edit(t *testing.T, raw []byte, change func(map[string]any)) []byte {
	t.Helper()
	pod := decode(t, raw).(map[string]any)
	change(pod)
	return marshal(t, pod)
}

func decode(t testing.TB, raw []byte) any {
	t.Helper()
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// apply applies operations as RFC 6902, section 4.1, has it. It is written
// from the standard and not from the code under test.
func apply(t testing.TB, raw []byte, ops []Op) []byte {
	t.Helper()
	doc := decode(t, raw)
	for _, op := range ops {
		switch op.Op {
		case "add":
			doc = addAt(t, doc, tokens(op.Path), decode(t, marshal(t, op.Value)))
		case "test":
			if got := takeFrom(t, doc, tokens(op.Path), false); !reflect.DeepEqual(got, decode(t, marshal(t, op.Value))) {
				t.Fatalf("%s is %v, not %v", op.Path, got, op.Value)
			}
		case "move":
			doc = addAt(t, doc, tokens(op.Path), takeFrom(t, doc, tokens(op.From), true))
		default:
			t.Fatalf("operation %q", op.Op)
		}
	}
	return marshal(t, doc)
}

// tokens are those of a JSON pointer (RFC 6901).
func tokens(path string) []string {
	tokens := strings.Split(path, "/")[1:]
	for i := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(tokens[i], "~1", "/"), "~0", "~")
	}
	return tokens
}

// takeFrom is the value at a place, perhaps taken out of the list that it is in.
func takeFrom(t testing.TB, doc any, tokens []string, out bool) any {
	t.Helper()
	at := func(d any, token string) any {
		switch d := d.(type) {
		case map[string]any:
			return d[token]
		case []any:
			if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(d) {
				return d[i]
			}
		}
		t.Fatalf("no %q in %T", token, d)
		return nil
	}
	var above, list any
	for _, token := range tokens {
		above, list, doc = list, doc, at(doc, token)
	}
	if out {
		i, _ := strconv.Atoi(tokens[len(tokens)-1])
		above.(map[string]any)[tokens[len(tokens)-2]] = slices.Delete(slices.Clone(list.([]any)), i, i+1)
	}
	return doc
}

func addAt(t testing.TB, doc any, tokens []string, value any) any {
	t.Helper()
	if len(tokens) == 0 {
		return value
	}
	token, last := tokens[0], len(tokens) == 1
	switch d := doc.(type) {
	case map[string]any:
		if child, ok := d[token]; last {
			d[token] = value
		} else if !ok {
			t.Fatalf("no member %q to add below", token)
		} else {
			d[token] = addAt(t, child, tokens[1:], value)
		}
		return d
	case []any:
		i, err := strconv.Atoi(token)
		if token == "-" {
			i, err = len(d), nil
		}
		if err != nil || i < 0 || i > len(d) || !last && i == len(d) {
			t.Fatalf("no position %q in a list of %d", token, len(d))
		}
		if last {
			return append(d[:i:i], append([]any{value}, d[i:]...)...)
		}
		d[i] = addAt(t, d[i], tokens[1:], value)
		return d
	}
	t.Fatalf("cannot add %q to %T", token, doc)
	return nil
}
