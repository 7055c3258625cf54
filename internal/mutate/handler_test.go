package mutate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
)

// post sends a body to a handler and reads the review that comes back.
func post(t testing.TB, h http.Handler, contentType, body string) *admissionv1.AdmissionReview {
	t.Helper()
	req := httptest.NewRequest(http.MethodPost, "/mutate", strings.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusOK || rec.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("HTTP %d, %s: %s", rec.Code, rec.Header().Get("Content-Type"), rec.Body)
	}
	rv := new(admissionv1.AdmissionReview)
	if err := json.Unmarshal(rec.Body.Bytes(), rv); err != nil {
		t.Fatal(err)
	}
	if rv.Kind != "AdmissionReview" || rv.Response == nil {
		t.Fatalf("no review with a response: %s", rec.Body)
	}
	return rv
}

// sent is the review of a pod, as an API server would send it.
func sent(t testing.TB, namespace string, object []byte) string {
	t.Helper()
	return fmt.Sprintf(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"uid-1","kind":{"group":"","version":"v1","kind":"Pod"},
		"resource":{"group":"","version":"v1","resource":"pods"},"namespace":%q,"operation":"CREATE","userInfo":{"username":"kim"},"object":%s,"oldObject":null,"dryRun":true,"options":null}}`,
		namespace, object)
}

func (c golden) sent(t testing.TB) string { return sent(t, c.req.Namespace, c.object) }

func quiet() *Handler {
	cfg := DefaultConfig()
	return &Handler{Config: func() *Config { return cfg }, Log: slog.New(slog.DiscardHandler)}
}

// The webhook's answer is that of the golden case, for each of them.
func TestHandlerAnswersGoldens(t *testing.T) {
	for _, c := range goldens(t) {
		t.Run(c.name, func(t *testing.T) {
			h := quiet()
			h.Config = func() *Config { return c.cfg }
			rv := post(t, h, "application/json; charset=utf-8", c.sent(t))
			out := Mutate(c.req, c.cfg)
			r := rv.Response
			if rv.APIVersion != "admission.k8s.io/v1" || r.UID != "uid-1" || r.Allowed != (out.Decision != Denied) {
				t.Fatalf("%s, uid %q, allowed %v; the decision is %s", rv.APIVersion, r.UID, r.Allowed, out.Decision)
			}
			if len(r.Warnings) != len(out.Warnings) {
				t.Errorf("warnings: %q", r.Warnings)
			}
			switch out.Decision {
			case Denied:
				if r.Result.Code != 403 || r.Result.Message != out.Problems.Error() || r.Patch != nil {
					t.Errorf("denied with %+v, patch %s", r.Result, r.Patch)
				}
			case Injected:
				var ops []Op
				if err := json.Unmarshal(r.Patch, &ops); err != nil || *r.PatchType != "JSONPatch" {
					t.Fatalf("patch of type %v: %v", r.PatchType, err)
				}
				if got, want := apply(t, c.object, ops), apply(t, c.object, out.Ops); !bytes.Equal(got, want) {
					t.Errorf("the patch makes\n%s\nwant\n%s", got, want)
				}
			case Skipped:
				if r.Patch != nil || r.PatchType != nil {
					t.Errorf("skipped with patch %s", r.Patch)
				}
			}
		})
	}
}

func TestHandlerRefusesBadInput(t *testing.T) {
	good := load(t, "minimal").sent(t)
	object := func(pod string) string { return sent(t, "shop", []byte(pod)) }
	h := quiet()
	for _, c := range []struct {
		name, contentType, body string
		code                    int32
		message                 string
	}{
		{"empty", "application/json", "", 400, "decoding AdmissionReview"},
		{"not JSON", "application/json", "hello", 400, "invalid character 'h'"},
		{"two values", "application/json", good + good, 400, "decoding AdmissionReview"},
		{"no review", "application/json", `{}`, 400, `kind is "" and apiVersion ""`},
		{"no request", "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`, 400, "it has no request"},
		{"null request", "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":null}`, 400, "it has no request"},
		{"old version", "application/json", strings.Replace(good, "k8s.io/v1\"", "k8s.io/v1beta1\"", 1), 400, "admissionReviewVersions are [v1]"},
		{"wrong type in review", "application/json", strings.Replace(good, `"uid":"uid-1"`, `"uid":["uid-1"]`, 1), 400, "uid"},
		{"wrong type in pod", "application/json", object(`{"metadata":{"annotations":{"latchkey.dev/inject":"true"}},"spec":{"containers":{"name":"app"}}}`), 400, "decoding pod"},
		{"annotations of a wrong type", "application/json", object(`{"metadata":{"annotations":{"latchkey.dev/inject":true}}}`), 400, "metadata.annotations: is a bool (a string: quote it)"},
		{"no quantity", "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{
			"object":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}},"resource":{"version":"v1","resource":"pods"},"operation":"CREATE","uid":"uid-1"}}`, 400, "decoding pod: quantities must match"},
		{"pod is a list", "application/json", object(`[]`), 400, "decoding pod"},
		{"pod is missing", "application/json", strings.Replace(object("1"), `"object":1,`, "", 1), 400, "the request has no object"},
		{"pod is null", "application/json", object("null"), 400, "the request has no object"},
		{"deep", "application/json", object(strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)), 400, "max depth"},
		{"deep and open", "application/json", strings.Repeat("[", 1_000_000), 400, "max depth"},
		{"not UTF-8", "application/json", "\xff\xfe", 400, "decoding AdmissionReview"},
		{"too large", "application/json", good + strings.Repeat(" ", 7<<20), 413, "7 MiB"},
		{"no content type", "", good, 415, "application/json"},
		{"other content type", "text/yaml", good, 415, `"text/yaml" (application/json)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			rv := post(t, h, c.contentType, c.body)
			r := rv.Response
			if r.Allowed || r.Result == nil || r.Result.Code != c.code || !strings.Contains(r.Result.Message, c.message) {
				t.Errorf("got %+v, want it refused with %d and %q", r.Result, c.code, c.message)
			}
			if c.name == "old version" && (rv.APIVersion != "admission.k8s.io/v1beta1" || r.UID != "uid-1") {
				t.Errorf("answered as %s, uid %q", rv.APIVersion, r.UID)
			}
			if c.name == "no quantity" && r.UID != "uid-1" {
				t.Errorf("uid %q, which stands behind what cannot be read", r.UID)
			}
			// And the next is served as if nothing had been.
			if again := post(t, h, "application/json", good); !again.Response.Allowed || len(again.Response.Patch) == 0 {
				t.Errorf("a good review after it: %+v", again.Response.Result)
			}
		})
	}
}

func TestHandlerTakesOnlyPost(t *testing.T) {
	rec := httptest.NewRecorder()
	quiet().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/mutate", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "POST" {
		t.Errorf("GET: HTTP %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
}

// What is no new pod is let through unread.
func TestHandlerLeavesOtherRequestsAlone(t *testing.T) {
	good := load(t, "minimal").sent(t)
	for name, body := range map[string]string{
		"update":      strings.Replace(good, `"CREATE"`, `"UPDATE"`, 1),
		"deletion":    strings.Replace(strings.Replace(good, `"CREATE"`, `"DELETE"`, 1), `"object":{`, `"object":null,"was":{`, 1),
		"other kind":  strings.Replace(good, `"resource":"pods"`, `"resource":"services"`, 1),
		"no pod":      strings.Replace(strings.Replace(good, `"resource":"pods"`, `"resource":"things"`, 1), `"containers":[`, `"hostNetwork":"x","containers":[`, 1),
		"other group": strings.Replace(good, `"resource":{"group":""`, `"resource":{"group":"metrics.k8s.io"`, 1),
		"subresource": strings.Replace(good, `"namespace"`, `"subResource":"ephemeralcontainers","namespace"`, 1),
	} {
		if body == good {
			t.Fatalf("%s: nothing replaced", name)
		}
		if rv := post(t, quiet(), "application/json", body); !rv.Response.Allowed || rv.Response.Patch != nil {
			t.Errorf("%s: %+v, patch %s", name, rv.Response.Result, rv.Response.Patch)
		}
	}
}

// A fault of ours is an answer, and the injector lives on.
func TestHandlerSurvivesAFault(t *testing.T) {
	var log bytes.Buffer
	var reasons []Reason
	h := &Handler{
		Config:  func() *Config { return nil },
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
		Observe: func(_ string, _ Decision, r Reason, _ time.Duration) { reasons = append(reasons, r) },
	}
	rv := post(t, h, "application/json", load(t, "minimal").sent(t))
	if rv.Response.Allowed || rv.Response.Result.Code != 500 || rv.Response.UID != "uid-1" {
		t.Errorf("got %+v", rv.Response)
	}
	if len(reasons) != 1 || reasons[0] != InternalError || !strings.Contains(log.String(), "nil pointer") {
		t.Errorf("reasons %q, log:\n%s", reasons, &log)
	}
}

// Names in a request are not checked before it is answered.
func TestHandlerLogsShortLines(t *testing.T) {
	var log bytes.Buffer
	h := &Handler{Config: DefaultConfig, Log: slog.New(slog.NewJSONHandler(&log, nil))}
	long := strings.Repeat("x", 1<<20)
	object := []byte(`{"metadata":{"generateName":"` + long + `","ownerReferences":[{"controller":true,"kind":"` + long + `"}]}}`)
	post(t, h, "application/json", strings.Replace(sent(t, long, object), "uid-1", long, 1))
	if log.Len() > 2<<10 {
		t.Errorf("a line of %d bytes: %.300s", log.Len(), &log)
	}
}

// Each admission is one line that says who, what and why, and holds nothing
// that the pod's author wrote but names.
func TestHandlerLogsOneLine(t *testing.T) {
	for name, wants := range map[string][]string{
		"generated-name": {`"namespace":"shop"`, `"name":"web-6d4cf56db6-"`, `"owner":"ReplicaSet/web-6d4cf56db6"`, `"uid":"uid-1"`, `"decision":"injected"`, `"reason":"asked-for"`, `"duration":`, `"dryRun":true`},
		"five-mistakes":  {`"decision":"denied"`, `"reason":"invalid-annotations"`, `"problems":5`},
		"opted-out":      {`"decision":"skipped"`, `"reason":"opted-out"`},
	} {
		var log bytes.Buffer
		h := &Handler{Config: DefaultConfig, Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		post(t, h, "application/json", load(t, name).sent(t))
		line := log.String()
		if strings.Count(line, "\n") != 1 {
			t.Errorf("%s: %d lines:\n%s", name, strings.Count(line, "\n"), line)
		}
		for _, want := range wants {
			if !strings.Contains(line, want) {
				t.Errorf("%s: no %s in %s", name, want, line)
			}
		}
		for _, secret := range []string{"kv/", "passwd", "soon", "app:1"} {
			if strings.Contains(line, secret) {
				t.Errorf("%s: %q was logged: %s", name, secret, line)
			}
		}
	}
}
