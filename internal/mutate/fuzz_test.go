package mutate

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
)

// FuzzParse gives one annotation any value: it is understood or refused with
// words, always in the same way, and what is understood makes a valid agent.
func FuzzParse(f *testing.F) {
	for _, r := range table {
		f.Add(r.name, r.def)
	}
	for _, c := range goldens(f) {
		pod := c.req.Pod.DeepCopy()
		for name, value := range pod.Annotations {
			// Long seeds cost the fuzzer its time and find nothing more.
			if row, ours := strings.CutPrefix(name, Prefix); ours && len(value) < 4<<10 {
				f.Add(row, value)
			}
		}
	}
	cfg := DefaultConfig()
	id := Identity{Namespace: "shop", ServiceAccount: "web"}
	f.Fuzz(func(t *testing.T, name, value string) {
		notes := map[string]string{
			Prefix + "inject": "true",
			Prefix + "role":   "app",
			Prefix + "files":  "[{path: a, secret: kv/a, format: json, mode: \"0400\"}]",
			Prefix + name:     value,
		}
		spec, problems := Parse(notes, id, cfg)
		_, again := Parse(notes, id, cfg)
		if len(problems) != len(again) || len(problems) > 0 && problems.Error() != again.Error() {
			t.Fatalf("differs: %q, %q", problems, again)
		}
		if len(problems) > 0 {
			return
		}
		agent := spec.Agent
		for i := range agent.Files {
			if agent.Files[i].Mode == 0 {
				agent.Files[i].Mode = 0o400
			}
		}
		if agent.TokenFile != nil && agent.TokenFile.Mode == 0 {
			agent.TokenFile.Mode = 0o400
		}
		if agent.Local != nil && agent.Local.Socket != "" {
			agent.Local.Mode = 0o600
		}
		if err := agent.Validate(); err != nil {
			t.Fatalf("%s=%q makes an invalid agent: %v", name, value, err)
		}
		if spec.TokenSeconds < 600 || spec.TokenSeconds > 86400 || spec.RunAsUser != nil && *spec.RunAsUser < 1 || spec.RunAsGroup != nil && *spec.RunAsGroup < 1 {
			t.Fatalf("%s=%q: token of %d seconds, user %v, group %v", name, value, spec.TokenSeconds, spec.RunAsUser, spec.RunAsGroup)
		}
		if name == "init-containers" && len(spec.InitContainers) == 0 || spec.MountPath == "" || name == "containers" && len(spec.Containers) == 0 {
			t.Fatalf("%s=%q leaves the spec incomplete: %+v", name, value, spec)
		}
	})
}

// FuzzHandler sends any body: the answer is always a review, and a patch is
// such that the patched pod needs no other.
func FuzzHandler(f *testing.F) {
	for _, c := range goldens(f) {
		if len(c.object) < 8<<10 {
			f.Add([]byte(c.sent(f)))
		}
	}
	f.Add([]byte(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{}}`))
	f.Add([]byte(`[`))
	h := quiet()
	f.Fuzz(func(t *testing.T, body []byte) {
		req := httptest.NewRequest(http.MethodPost, "/mutate", bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		var rv admissionv1.AdmissionReview
		if err := json.Unmarshal(rec.Body.Bytes(), &rv); err != nil || rec.Code != http.StatusOK || rv.Response == nil {
			t.Fatalf("HTTP %d: %s", rec.Code, rec.Body)
		}
		if !rv.Response.Allowed {
			if rv.Response.Result.Message == "" || rv.Response.Result.Code == http.StatusInternalServerError {
				t.Fatalf("refused with %+v", rv.Response.Result)
			}
			return
		}
		if rv.Response.Patch == nil {
			return
		}
		sent, err := readReview(body)
		if err != nil {
			t.Fatal(err)
		}
		var ops []Op
		if err := json.Unmarshal(rv.Response.Patch, &ops); err != nil {
			t.Fatal(err)
		}
		if again := Mutate(NewPod(sent.Request.Namespace, apply(t, objectOf(t, body), ops)), DefaultConfig()); again.Reason != AlreadyInjected {
			t.Fatalf("injecting again: %s (%s) %q", again.Decision, again.Reason, again.Problems)
		}
	})
}
