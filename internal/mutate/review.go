package mutate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// review is an AdmissionReview as far as it is looked at.
type review struct {
	metav1.TypeMeta `json:",inline"`
	Request         *reviewRequest `json:"request"`
}

type reviewRequest struct {
	requestHead `json:",inline"`
	Object      *corev1.Pod `json:"object"`

	// invalid is what is wrong with the object if it is a pod.
	invalid error
}

// requestHead is a request without its object.
type requestHead struct {
	UID         types.UID                   `json:"uid"`
	Resource    metav1.GroupVersionResource `json:"resource"`
	SubResource string                      `json:"subResource"`
	Name        string                      `json:"name"`
	Namespace   string                      `json:"namespace"`
	Operation   string                      `json:"operation"`
	DryRun      bool                        `json:"dryRun"`
}

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// readReview decodes a review. The result is never nil: even of a review that
// cannot be answered as asked, version and uid are needed for the refusal.
func readReview(body []byte) (*review, error) {
	rv := new(review)
	// Decoding is most of an admission's cost, so the object is decoded with the
	// rest, as the pod that it nearly always is.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, rv); err != nil {
		if rv, err = readParts(body); err != nil {
			return rv, fmt.Errorf("decoding AdmissionReview: %w", err)
		}
	}
	switch {
	case rv.TypeMeta != reviewType:
		return rv, fmt.Errorf("decoding AdmissionReview: kind is %q and apiVersion %q (%s and %s; the webhook's admissionReviewVersions are [v1])",
			rv.Kind, rv.APIVersion, reviewType.Kind, reviewType.APIVersion)
	case rv.Request == nil:
		return rv, errors.New("decoding AdmissionReview: it has no request")
	}
	return rv, nil
}

// readParts decodes a review whose object may be anything.
func readParts(body []byte) (*review, error) {
	var parts struct {
		metav1.TypeMeta `json:",inline"`
		Request         *struct {
			requestHead `json:",inline"`
			Object      rawJSON `json:"object"`
		} `json:"request"`
	}
	err := kjson.UnmarshalCaseSensitivePreserveInts(body, &parts)
	rv := &review{TypeMeta: parts.TypeMeta}
	if r := parts.Request; r != nil {
		rv.Request = &reviewRequest{requestHead: r.requestHead}
		rv.Request.Object, rv.Request.invalid = decodePod(r.Object)
	}
	return rv, err
}

// question is the request without what only transport and log care for.
func (r *reviewRequest) question() *Request {
	return &Request{
		Group:       r.Resource.Group,
		Resource:    r.Resource.Resource,
		SubResource: r.SubResource,
		Operation:   r.Operation,
		Namespace:   r.Namespace,
		Pod:         r.Object,
		invalid:     r.invalid,
	}
}

// answer is the review that goes back.
func (rv *review) answer(out *Outcome) (*admissionv1.AdmissionReview, error) {
	resp := &admissionv1.AdmissionResponse{Allowed: out.Decision != Denied, Warnings: out.Warnings}
	if rv.Request != nil {
		resp.UID = rv.Request.UID
	}
	if !resp.Allowed {
		code, reason := out.Reason.status()
		resp.Result = &metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    code,
			Reason:  reason,
			Message: out.Problems.Error(),
		}
	}
	if len(out.Ops) > 0 {
		patch, err := json.Marshal(out.Ops)
		if err != nil {
			return nil, fmt.Errorf("encoding patch: %w", err)
		}
		kind := admissionv1.PatchTypeJSONPatch
		resp.Patch, resp.PatchType = patch, &kind
	}
	full := &admissionv1.AdmissionReview{TypeMeta: reviewType, Response: resp}
	if rv.Kind == reviewType.Kind && rv.APIVersion == "admission.k8s.io/v1beta1" {
		// Who asks in the old version reads the refusal only in the old version.
		full.APIVersion = rv.APIVersion
	}
	return full, nil
}

// status is the code and reason of a denial, as the client of the API server
// gets it.
func (r Reason) status() (int32, metav1.StatusReason) {
	switch r {
	case InvalidRequest:
		return http.StatusBadRequest, metav1.StatusReasonBadRequest
	case WrongContentType:
		return http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType
	case TooLarge:
		return http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge
	case InternalError:
		return http.StatusInternalServerError, metav1.StatusReasonInternalError
	}
	return http.StatusForbidden, metav1.StatusReasonForbidden
}

// rawJSON is a JSON value as it was written.
type rawJSON []byte

// UnmarshalJSON keeps a copy of the value.
func (r *rawJSON) UnmarshalJSON(b []byte) error {
	*r = bytes.Clone(b)
	return nil
}
