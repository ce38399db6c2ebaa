{{/* What the webhook merges into pods: the file pod.yaml of its ConfigMap. */}}
{{- define "buildsvc.podTemplate" -}}
metadata:
  labels:
    buildsvc.io/build: "true"
spec:
  {{- include "buildsvc.sidecar.pod" . | nindent 2 }}
  {{- with include "buildsvc.pullSecrets" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  initContainers:
    - {{ include "buildsvc.sidecar.container" (list . .Values.cache.key) | nindent 6 | trim }}
  volumes:
    {{- include "buildsvc.sidecar.volumes" . | nindent 4 }}
# For the containers that build: those of the annotation buildsvc.io/containers, else all.
client:
  {{- with include "buildsvc.client.env" . | trim }}
  env:
    {{- . | nindent 4 }}
  {{- else }}
  env: []
  {{- end }}
  volumeMounts:
    {{- include "buildsvc.client.mounts" . | nindent 4 }}
{{- with .Values.webhook.allow }}
allow:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
