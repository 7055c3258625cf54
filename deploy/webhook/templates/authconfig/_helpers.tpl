{{- define "latchkey.authconfig.name" -}}latchkey-authconfig{{- end }}

{{- define "latchkey.authconfig.selector" -}}
app.kubernetes.io/name: latchkey-authconfig
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "latchkey.authconfig.labels" -}}
{{ include "latchkey.authconfig.selector" . }}
{{ include "latchkey.commonLabels" . }}
{{- end }}

{{/* Metadata of an object of authconfig's own name, in the release's namespace. */}}
{{- define "latchkey.authconfig.metadata" -}}
name: {{ include "latchkey.authconfig.name" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "latchkey.authconfig.labels" . | nindent 2 }}
{{- end }}

{{/* Its ConfigMap: the one of its own name is where it notes what it made. */}}
{{- define "latchkey.authconfig.configName" -}}latchkey-authconfig-config{{- end }}

{{- define "latchkey.authconfig.subject" -}}
{kind: ServiceAccount, name: {{ include "latchkey.authconfig.name" . }}, namespace: {{ .Release.Namespace }}}
{{- end }}

{{/*
Metadata of an object outside of the release's namespace, or of none: other
releases may have theirs beside it. A dot occurs in no name of a namespace.
*/}}
{{- define "latchkey.authconfig.elsewhere" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}{{ $namespace := index . 2 -}}
name: {{ printf "%s.%s.%s" (include "latchkey.authconfig.name" $root) $root.Release.Namespace $name }}
{{- with $namespace }}
namespace: {{ . }}
{{- end }}
labels: {{- include "latchkey.authconfig.labels" $root | nindent 2 }}
{{- end }}

{{/* How agents of the connection default reach Vault, of which authconfig needs most. */}}
{{- define "latchkey.authconfig.connection" -}}
{{- toYaml ((.Values.config.connections).default | default dict) }}
{{- end }}

{{/*
The way to Vault: what authconfig.vault says, and else the connection's. The keys
caConfigMap, caSecret and clusterTrustBundle are for a volume, the others for the file.
*/}}
{{- define "latchkey.authconfig.vault" -}}
{{- $connection := include "latchkey.authconfig.connection" . | fromYaml -}}
{{- $own := .Values.authconfig.vault -}}
{{- $out := dict -}}
{{- range $key := list "address" "tlsServerName" "proxy" "timeout" "headers" -}}
  {{- with get $own $key | default (get $connection $key) }}{{ $_ := set $out $key . }}{{ end -}}
{{- end -}}
{{- /* The mount lies where the agents log in. */ -}}
{{- with $own.namespace | default ($connection.auth).namespace | default $connection.namespace }}{{ $_ := set $out "namespace" . }}{{ end -}}
{{- if or $own.ca $own.caConfigMap.name $own.caSecret.name -}}
  {{- with $own.ca }}{{ $_ := set $out "ca" . }}{{ end -}}
  {{- range $key := list "caConfigMap" "caSecret" -}}
    {{- with get $own $key }}{{ if .name }}{{ $_ := set $out $key . }}{{ end }}{{ end -}}
  {{- end -}}
{{- else -}}
  {{- range $key := list "ca" "caConfigMap" "caSecret" "clusterTrustBundle" -}}
    {{- with get $connection $key }}{{ $_ := set $out $key . }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- with $connection.clientCertSecret }}{{ $_ := set $out "clientCertSecret" . }}{{ end -}}
{{- if not $out.address -}}
  {{- fail "authconfig.vault.address is empty, and there is no connection default to take it from (such as https://vault.vault.svc:8200)" -}}
{{- end -}}
{{- $cas := list -}}
{{- range $key := list "ca" "caConfigMap" "caSecret" "clusterTrustBundle" -}}
  {{- if hasKey $out $key }}{{ $cas = append $cas $key }}{{ end -}}
{{- end -}}
{{- if gt (len $cas) 1 -}}
  {{- fail (printf "authconfig.vault: %s are given together (one of them)" (join ", " $cas)) -}}
{{- end -}}
{{- toYaml $out -}}
{{- end }}

{{/* The path of the mount that authconfig keeps, below auth/. */}}
{{- define "latchkey.authconfig.mount" -}}
{{- $auth := (include "latchkey.authconfig.connection" . | fromYaml).auth | default dict -}}
{{- .Values.authconfig.mount.path | default $auth.mount | default $auth.method | default "kubernetes" | trimAll "/" | trimPrefix "auth/" -}}
{{- end }}

{{/* Where authconfig's own credentials are mounted. */}}
{{- define "latchkey.authconfig.credentials" -}}/var/run/secrets/latchkey.dev/vault{{- end }}

{{/* The method of authconfig's own login is one that shows a ServiceAccount token. */}}
{{- define "latchkey.authconfig.showsIdentity" -}}
{{- if has .Values.authconfig.auth.method (list "jwt" "kubernetes") }}true{{ end }}
{{- end }}

{{- define "latchkey.authconfig.auth" -}}
{{- $auth := .Values.authconfig.auth -}}
{{- $dir := include "latchkey.authconfig.credentials" . -}}
{{- $secret := $auth.secret -}}
{{- if and (include "latchkey.authconfig.showsIdentity" .) $secret.name -}}
  {{- fail (printf "authconfig.auth.secret.name is given, of which method %s makes no use (leave it out, or choose method approle or token)" $auth.method) -}}
{{- else if not (or (include "latchkey.authconfig.showsIdentity" .) $secret.name) -}}
  {{- fail (printf "authconfig.auth.secret.name is empty: method %s reads a Secret in the release's namespace with the key %s" $auth.method (ternary (printf "%s (the Vault token)" $secret.tokenKey) (printf "%s, and %s unless that is empty" $secret.roleIDKey $secret.secretIDKey) (eq $auth.method "token"))) -}}
{{- end -}}
{{- if and (eq $auth.method "kubernetes") (not $auth.mount) -}}
  {{- fail "authconfig.auth.mount is empty: method kubernetes names a mount other than the one that authconfig keeps, whose reviewer somebody else keeps (or choose method jwt, approle or token)" -}}
{{- end -}}
{{- $login := $auth.mount | default $auth.method | trimAll "/" | trimPrefix "auth/" -}}
{{- $namespace := (include "latchkey.authconfig.vault" . | fromYaml).namespace | default "" -}}
{{- if and (ne $auth.method "token") (eq $login (include "latchkey.authconfig.mount" .)) (eq ($auth.namespace | default $namespace) $namespace) -}}
  {{- fail (printf "authconfig.auth.mount is %s, the mount that authconfig keeps: after a long outage it could not log in there (another mount, or method approle or token)" $login) -}}
{{- end -}}
method: {{ $auth.method }}
{{- if ne $auth.method "token" }}
mount: {{ $auth.mount | default $auth.method }}
{{- end }}
{{- with $auth.namespace }}
namespace: {{ . }}
{{- end }}
{{- if include "latchkey.authconfig.showsIdentity" . }}
role: {{ $auth.role }}
audience: {{ $auth.audience | quote }}
tokenPath: {{ $dir }}/token
{{- else if eq $auth.method "approle" }}
roleIDPath: {{ $dir }}/{{ $secret.roleIDKey }}
{{- with $secret.secretIDKey }}
secretIDPath: {{ $dir }}/{{ . }}
{{- end }}
{{- with $auth.secretIDWrappingPath }}
secretIDWrappingPath: {{ . }}
{{- end }}
{{- else }}
tokenPath: {{ $dir }}/{{ $secret.tokenKey }}
{{- end }}
{{- end }}

{{/*
The ConfigMaps with roles: those that are named, before them the one of the
release's own roles unless it is named with limits; the program's default is none.
*/}}
{{- define "latchkey.authconfig.sources" -}}
{{- $sources := .Values.authconfig.sources -}}
{{- $listed := false -}}
{{- range $sources }}{{ if and (eq .namespace $.Release.Namespace) (eq .name "vault-auth-roles") }}{{ $listed = true }}{{ end }}{{ end -}}
{{- if and .Values.authconfig.roles (not $listed) -}}
  {{- $sources = prepend $sources (dict "namespace" .Release.Namespace "name" "vault-auth-roles") -}}
{{- else if not $sources -}}
  {{- $sources = list (dict "namespace" "vault-auth" "name" "vault-auth-roles") -}}
{{- end -}}
sources: {{- toYaml $sources | nindent 2 }}
{{- end }}

{{/* The audience of roles that name none. With mode client the token is shown to the API server itself. */}}
{{- define "latchkey.authconfig.audience" -}}
{{- $a := .Values.authconfig -}}
{{- $auth := (include "latchkey.authconfig.connection" . | fromYaml).auth | default dict -}}
{{- if $a.audience }}{{ $a.audience }}
{{- else if eq $a.reviewer.mode "client" }}
{{- else if hasKey $auth "audience" }}{{ $auth.audience }}
{{- else }}vault
{{- end }}
{{- end }}

{{- define "latchkey.authconfig.config" -}}
{{- $a := .Values.authconfig -}}
{{- $vault := include "latchkey.authconfig.vault" . | fromYaml -}}
vault:
  {{- toYaml (omit $vault "caConfigMap" "caSecret" "clusterTrustBundle" "clientCertSecret") | nindent 2 }}
  {{- if or $vault.caConfigMap $vault.caSecret $vault.clusterTrustBundle }}
  caFile: /etc/latchkey/vault-ca/ca.crt
  {{- end }}
  {{- if $vault.clientCertSecret }}
  clientCert: /etc/latchkey/vault-client/tls.crt
  clientKey: /etc/latchkey/vault-client/tls.key
  {{- end }}
  auth: {{- include "latchkey.authconfig.auth" . | nindent 4 }}
mount:
  path: {{ include "latchkey.authconfig.mount" . | quote }}
  {{- range $key := list "description" "defaultLeaseTTL" "maxLeaseTTL" "adopt" }}
  {{- with get $a.mount $key }}
  {{ $key }}: {{ toYaml . }}
  {{- end }}
  {{- end }}
{{- /* Always there: elsewhere than in the pod authconfig has another default. */}}
kubernetes:
  host: {{ $a.kubernetes.host | default "https://kubernetes.default.svc" }}
  {{- with $a.kubernetes.ca }}
  ca: |
    {{- . | nindent 4 }}
  {{- end }}
{{- with include "latchkey.authconfig.audience" . }}
audience: {{ . | quote }}
{{- end }}
reviewer:
  {{- range $key, $value := omit $a.reviewer "namespaceSelectors" (ternary "" "life" (eq $a.reviewer.mode "short-lived")) }}
  {{- with $value }}
  {{ $key }}: {{ toYaml . }}
  {{- end }}
  {{- end }}
{{ include "latchkey.authconfig.sources" . }}
{{- with $a.serviceAccounts }}
serviceAccounts: {{- toYaml . | nindent 2 }}
{{- end }}
resync: {{ $a.resync }}
{{- end }}

{{/* Whether the reviewer ServiceAccount asks the API server about tokens. */}}
{{- define "latchkey.authconfig.reviews" -}}
{{- if has .Values.authconfig.reviewer.mode (list "short-lived" "long-lived" "client") }}true{{ end }}
{{- end }}

{{/* Where the token of mode long-lived is. */}}
{{- define "latchkey.authconfig.reviewerSecret" -}}
{{- with .Values.authconfig.reviewer }}{{ .secret | default (printf "%s-token" .serviceAccount) }}{{ end }}
{{- end }}
