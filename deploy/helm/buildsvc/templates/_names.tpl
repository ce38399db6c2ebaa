{{/* Names, labels and images. */}}

{{- define "buildsvc.labels" -}}
app.kubernetes.io/name: buildsvc
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: buildsvc
{{- end }}

{{/* Labels by which the webhook's own objects find its pods. */}}
{{- define "buildsvc.webhook.selector" -}}
app.kubernetes.io/name: buildsvc
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: webhook
{{- end }}

{{/* An image: (list $ "sidecar"). */}}
{{- define "buildsvc.image" -}}
{{- $root := index . 0 -}}
{{- $which := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- $name := printf "%s/buildsvc-%s" $image.registry $which -}}
{{- with index $image.digests $which -}}
{{ $name }}@{{ . }}
{{- else -}}
{{ $name }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* Namespaces where builds run, as a JSON list: helpers return text. */}}
{{- define "buildsvc.namespaces" -}}
{{ .Values.builds.namespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}

{{- define "buildsvc.hasRegistryConfig" -}}
{{- with .Values.registry -}}
{{- if or .ca .insecure .mirrors .buildkitdToml -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* Security of a container that only runs Python or a step: nothing is allowed. */}}
{{- define "buildsvc.restricted" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "buildsvc.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Bytes of a Kubernetes quantity with a binary suffix, or of a size as the sidecar writes it. */}}
{{- define "buildsvc.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[MGT]i" . -}}
{{- mul $number (get (dict "Mi" 1 "Gi" 1024 "Ti" 1048576) $unit) -}}
{{- end }}

{{/* Name of what is not in a namespace: two releases must not share it. */}}
{{- define "buildsvc.webhook.registration" -}}
buildsvc-webhook-{{ .Release.Namespace }}
{{- end }}

{{/* Those of the networks that are of IPv6, or those that are not, as a JSON list: (list $networks true). */}}
{{- define "buildsvc.blocked" -}}
{{- $six := index . 1 -}}
{{- $found := list -}}
{{- range index . 0 -}}
{{- if eq (contains ":" .) $six -}}{{- $found = append $found . -}}{{- end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}
