package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tries bounds the writing of one bundle: more than there are replicas to
// compete with, as a rule.
const tries = 10

// view is what a replica knows of CA and bundle.
type view struct {
	ca *x509.Certificate // that of the Secret; nil before it was seen
	// since is when each certificate of the bundle, by its DER, is known to be
	// there; bundle is nil before the first look.
	since  map[string]time.Time
	bundle []*x509.Certificate
	at     time.Time // of the last look, zero before the first
}

// see takes over a bundle. What is there at the first look has been there since
// it was made, unless that was just now; anything else since now. So a replica
// that starts is ready at once, and one that starts while the CA changes is not.
func (v *view) see(now time.Time, bundle []*x509.Certificate) {
	since := make(map[string]time.Time, len(bundle))
	for _, c := range bundle {
		t, was := v.since[string(c.Raw)]
		switch {
		case was:
		case !v.at.IsZero() || now.Before(c.NotBefore.Add(changeLag)):
			t = now
		default:
			t = c.NotBefore
		}
		since[string(c.Raw)] = t
	}
	v.since, v.bundle, v.at = since, bundle, now
}

// known are the CAs to look for an issuer among.
func (v *view) known() []*x509.Certificate {
	if v.ca == nil {
		return v.bundle
	}
	return append([]*x509.Certificate{v.ca}, v.bundle...)
}

// look reads CA and bundle, and writes the bundle if it has to change.
func (s *selfManaged) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	ca, caErr := s.readCA(ctx)
	if ca != nil {
		s.mu.Lock()
		s.view.ca = ca
		s.mu.Unlock()
	}
	hooks := s.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	for range tries {
		now := time.Now()
		have, err := hooks.Get(ctx, s.WebhookConfiguration, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			s.see(now, nil)
			return fmt.Errorf("webhook configuration %q does not exist (install it, or name another by --webhook-configuration)", s.WebhookConfiguration)
		}
		if err != nil {
			return fmt.Errorf("reading webhook configuration %q: %w", s.WebhookConfiguration, err)
		}
		patch, bundle, err := s.plan(now, have, ca)
		if err != nil {
			s.see(now, nil)
			return err
		}
		s.see(now, bundle)
		if patch == nil || caErr != nil {
			return caErr
		}
		_, err = hooks.Patch(ctx, s.WebhookConfiguration, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldOwner})
		switch {
		case err == nil:
			s.log.Info("wrote CA bundle", "webhookConfiguration", s.WebhookConfiguration, "caNotAfter", ca.NotAfter)
		case apierrors.IsConflict(err):
			// Another replica was faster.
		default:
			return fmt.Errorf("writing caBundle of webhook configuration %q: %w", s.WebhookConfiguration, err)
		}
		// Read back: what counts is what is stored.
	}
	return fmt.Errorf("caBundle of webhook configuration %q changes faster than it can be written (look for who else writes it: kubectl get mutatingwebhookconfiguration %[1]s -o yaml --show-managed-fields)",
		s.WebhookConfiguration)
}

func (s *selfManaged) see(now time.Time, bundle []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.see(now, bundle)
}

// readCA returns nil while there is no Secret: the authority makes it.
func (s *selfManaged) readCA(ctx context.Context) (*x509.Certificate, error) {
	secret, err := s.client.CoreV1().Secrets(s.Namespace).Get(ctx, s.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s/%s: %w", s.Namespace, s.Secret, err)
	}
	ca, err := parseCA(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return nil, fmt.Errorf("reading CA in Secret %s/%s: %w", s.Namespace, s.Secret, err)
	}
	return ca, nil
}

// plan says how the configuration has to change for a CA, which may be nil: the
// patch is nil if not at all. It touches the caBundle of the webhooks that call
// our Service and nothing else, and only the version that was read. The bundle
// is what those webhooks have in common now.
func (s *selfManaged) plan(now time.Time, have *admissionv1.MutatingWebhookConfiguration, ca *x509.Certificate) (patch []byte, bundle []*x509.Certificate, err error) {
	type clientConfig struct {
		CABundle []byte `json:"caBundle"`
	}
	type webhook struct {
		Name         string       `json:"name"`
		ClientConfig clientConfig `json:"clientConfig"`
	}
	var change struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Webhooks []webhook `json:"webhooks"`
	}
	count, in := 0, map[string]int{}
	for _, w := range have.Webhooks {
		to := w.ClientConfig.Service
		if to == nil || to.Name != s.Service || to.Namespace != s.Namespace {
			continue
		}
		count++
		for _, a := range parseBundle(w.ClientConfig.CABundle) {
			if in[string(a.cert.Raw)]++; in[string(a.cert.Raw)] == 1 {
				bundle = append(bundle, a.cert)
			}
		}
		if ca == nil {
			continue
		}
		if want := nextBundle(now, w.ClientConfig.CABundle, ca, s.LeafDuration); !bytes.Equal(want, w.ClientConfig.CABundle) {
			change.Webhooks = append(change.Webhooks, webhook{w.Name, clientConfig{want}})
		}
	}
	if count == 0 {
		return nil, nil, fmt.Errorf("no webhook of configuration %q calls Service %s/%s (name it by --service, or the configuration by --webhook-configuration)",
			s.WebhookConfiguration, s.Namespace, s.Service)
	}
	common := bundle[:0]
	for _, c := range bundle {
		if in[string(c.Raw)] == count {
			common = append(common, c)
		}
	}
	if change.Webhooks == nil {
		return nil, common, nil
	}
	change.Metadata.ResourceVersion = have.ResourceVersion
	if patch, err = json.Marshal(change); err != nil {
		return nil, nil, fmt.Errorf("encoding caBundle: %w", err)
	}
	return patch, common, nil
}
