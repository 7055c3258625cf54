package mutate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxBody bounds a request, in bytes. The API server takes objects of up to
// 3 MiB, and a review can hold two.
const maxBody = 7 << 20

// Handler answers AdmissionReviews. Whatever it is sent, the HTTP status is
// 200 and the review in the body says what was wrong, since the API server
// shows the user nothing of an answer with another status.
type Handler struct {
	// Config is the operator's configuration to answer by; it may change from
	// call to call.
	Config func() *Config
	// Log gets one line per admission.
	Log *slog.Logger
	// Observe, if set, is told of each answer and how long it took. The namespace
	// is as it was sent, which may be anything.
	Observe func(namespace string, d Decision, r Reason, took time.Duration)
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	start := time.Now()
	rv, out := h.read(w, r)
	if out == nil {
		out = h.mutate(rv)
	}
	body, out := h.encode(rv, out)
	took := time.Since(start)
	h.log(rv, out, took)
	if h.Observe != nil {
		namespace := ""
		if rv.Request != nil {
			namespace = rv.Request.Namespace
		}
		h.Observe(namespace, out.Decision, out.Reason, took)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // who is gone needs no answer
}

// read reads the review, or says why it cannot be answered as asked.
func (h *Handler) read(w http.ResponseWriter, r *http.Request) (*review, *Outcome) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return new(review), refuse(WrongContentType, "content type %q (application/json)", r.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return new(review), refuse(TooLarge, "request has over %d MiB (an object of at most 3 MiB)", maxBody>>20)
	case err != nil:
		return new(review), refuse(InvalidRequest, "reading request: %v", err)
	}
	rv, err := readReview(body)
	if err != nil {
		return rv, refuse(InvalidRequest, "%v", err)
	}
	return rv, nil
}

func refuse(reason Reason, format string, args ...any) *Outcome {
	return &Outcome{Decision: Denied, Reason: reason, Problems: Problems{fmt.Sprintf(format, args...)}}
}

// mutate answers the review's request. A fault of ours is an answer too: a
// connection that just ends would say nothing to the pod's author.
func (h *Handler) mutate(rv *review) (out *Outcome) {
	defer func() {
		if fault := recover(); fault != nil {
			h.Log.Error("answering admission request", "fault", fault, "stack", string(debug.Stack()))
			out = refuse(InternalError, "the injector has a fault (see its log)")
		}
	}()
	return Mutate(rv.Request.question(), h.Config())
}

func (h *Handler) encode(rv *review, out *Outcome) ([]byte, *Outcome) {
	answer, err := rv.answer(out)
	if err == nil {
		var body []byte
		if body, err = json.Marshal(answer); err == nil {
			return body, out
		}
	}
	out = refuse(InternalError, "%v", err)
	answer, _ = rv.answer(out) // has no patch that could fail
	body, _ := json.Marshal(answer)
	return body, out
}

// log writes the admission's line. Neither pod nor patch nor problems go there:
// they hold whatever the pod's author wrote.
func (h *Handler) log(rv *review, out *Outcome, took time.Duration) {
	attrs := []any{"decision", out.Decision, "reason", out.Reason, "duration", took.Round(time.Microsecond).String()}
	if r := rv.Request; r != nil {
		name, owner := r.Name, ""
		if out.Pod != nil {
			name = or(name, or(out.Pod.Name, out.Pod.GenerateName))
			if ref := metav1.GetControllerOf(out.Pod); ref != nil {
				owner = ref.Kind + "/" + ref.Name
			}
		}
		// Names have been checked by nobody yet, not even their length.
		brief := func(s string) string { return shorten(s, 253) }
		attrs = append([]any{"namespace", brief(r.Namespace), "name", brief(name), "owner", brief(owner), "uid", brief(string(r.UID)), "dryRun", r.DryRun}, attrs...)
	}
	if len(out.Problems) > 0 {
		attrs = append(attrs, "problems", len(out.Problems))
	}
	if len(out.Warnings) > 0 {
		attrs = append(attrs, "warnings", len(out.Warnings))
	}
	h.Log.Info("admission", attrs...)
}
