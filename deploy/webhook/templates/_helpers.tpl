{{/* The names are fixed: the certificate and the operator's runbooks depend on them. */}}
{{- define "latchkey.name" -}}latchkey-injector{{- end }}

{{- define "latchkey.selector" -}}
app.kubernetes.io/name: latchkey-injector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "latchkey.labels" -}}
{{ include "latchkey.selector" . }}
app.kubernetes.io/part-of: latchkey
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{/* The configuration file: an empty agentImage means the injector's own default. */}}
{{- define "latchkey.config" -}}
{{- $config := .Values.config }}
{{- if not $config.agentImage }}{{ $config = omit $config "agentImage" }}{{ end }}
{{- toYaml $config }}
{{- end }}
