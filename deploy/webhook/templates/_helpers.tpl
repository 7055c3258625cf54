{{/* The names are fixed: the certificate and the operator's runbooks depend on them. */}}
{{- define "latchkey.name" -}}latchkey-injector{{- end }}

{{/* The Secret with the CA of the modes in which it is kept in the cluster. */}}
{{- define "latchkey.caSecret" -}}latchkey-injector-ca{{- end }}

{{- define "latchkey.selector" -}}
app.kubernetes.io/name: latchkey-injector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "latchkey.labels" -}}
{{ include "latchkey.selector" . }}
{{ include "latchkey.commonLabels" . }}
{{- end }}

{{- define "latchkey.commonLabels" -}}
app.kubernetes.io/part-of: latchkey
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{/* Metadata of an object of the injector's own name, in the release's namespace. */}}
{{- define "latchkey.metadata" -}}
name: {{ include "latchkey.name" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "latchkey.labels" . | nindent 2 }}
{{- end }}

{{/* A reference to an image: of the chart's root and the image's values. */}}
{{- define "latchkey.image" -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag | default (ternary "" (index . 0).Chart.AppVersion (ne $image.digest "")) -}}
{{ $image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The configuration file: an empty agentImage means the injector's own default. */}}
{{- define "latchkey.config" -}}
{{- $config := .Values.config }}
{{- if not $config.agentImage }}{{ $config = omit $config "agentImage" }}{{ end }}
{{- toYaml $config }}
{{- end }}

{{/*
Who makes the serving certificate. A cluster in which the injector keeps its own
CA does not change over by itself when somebody installs cert-manager. The CA
of mode cert-manager is in a Secret of the same name, which it annotates.
*/}}
{{- define "latchkey.certMode" -}}
{{- $certs := .Values.certs -}}
{{- $mode := $certs.mode -}}
{{- if not $mode -}}
  {{- $ca := lookup "v1" "Secret" .Release.Namespace (include "latchkey.caSecret" .) -}}
  {{- $own := and $ca (not (dig "metadata" "annotations" "cert-manager.io/certificate-name" "" $ca)) -}}
  {{- if $certs.caBundle -}}{{ $mode = "files" -}}
  {{- else if and (.Capabilities.APIVersions.Has "cert-manager.io/v1") (not $own) -}}{{ $mode = "cert-manager" -}}
  {{- else -}}{{ $mode = "self-managed" -}}
  {{- end -}}
{{- end -}}
{{- if and (eq $mode "files") (not $certs.caBundle) -}}
  {{- fail "certs.caBundle is empty: certs.mode files needs the PEM bundle that signed the certificate in the Secret certs.secretName (--set-file certs.caBundle=ca.crt)" -}}
{{- else if and (ne $mode "files") $certs.caBundle -}}
  {{- fail (printf "certs.caBundle is given, which certs.mode %s keeps by itself (leave out caBundle, or set certs.mode=files)" $mode) -}}
{{- end -}}
{{- $mode -}}
{{- end }}

{{/* The seconds of a duration such as 2160h. */}}
{{- define "latchkey.seconds" -}}
{{- (mustDateModify . (toDate "2006" "1970")).Unix -}}
{{- end }}

{{/* Whether anything in the pod asks the API server; else it has no token. */}}
{{- define "latchkey.usesAPI" -}}
{{- if or .Values.check.rbac (eq (include "latchkey.certMode" .) "self-managed") }}true{{ else }}false{{ end }}
{{- end }}
