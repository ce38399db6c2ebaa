{{/* buildkitd.toml: one table for each registry that something is said of. */}}
{{- define "buildsvc.buildkitdToml" -}}
{{- $r := .Values.registry -}}
{{- if $r.buildkitdToml -}}
{{ $r.buildkitdToml }}
{{- else -}}
{{- if and (or $r.ca $r.insecure) (not $r.host) -}}
{{- fail "registry.ca and registry.insecure are said of registry.host, which is empty: name it, such as registry.example:5000" -}}
{{- end -}}
{{- $tables := dict -}}
{{- if $r.host -}}
{{- $lines := list -}}
{{- if $r.ca -}}{{- $lines = append $lines "  ca = [\"/etc/buildsvc/registry/ca.pem\"]" -}}{{- end -}}
{{- if $r.insecure -}}{{- $lines = append $lines "  http = true" -}}{{- end -}}
{{- if $lines -}}{{- $_ := set $tables $r.host $lines -}}{{- end -}}
{{- end -}}
{{- range $host, $mirrors := $r.mirrors -}}
{{- $lines := append (get $tables $host | default list) (printf "  mirrors = %s" (toJson $mirrors)) -}}
{{- $_ := set $tables $host $lines -}}
{{- end -}}
{{- range $host, $lines := $tables }}
[registry.{{ $host | quote }}]
{{ join "\n" $lines }}
{{- end }}
{{- end -}}
{{- end }}
