{{/* The sidecar, and what a pod needs around it. One definition for the webhook's template, the example, the snippet
     and the SidecarSet. All settings are variables: whoever merges the container can set one without parsing a command. */}}

{{- define "buildsvc.maxUsedSpace" -}}
{{- $root := include "buildsvc.mebibytes" .Values.sidecar.rootSize | int64 -}}
{{- with .Values.sidecar.maxUsedSpace -}}
{{- if ge (include "buildsvc.mebibytes" . | int64) $root -}}
{{- fail (printf "sidecar.maxUsedSpace (%s) must be below sidecar.rootSize (%s): a build under way takes room beside it, and the kubelet evicts a pod that exceeds rootSize" . $.Values.sidecar.rootSize) -}}
{{- end -}}
{{ . }}
{{- else -}}
{{ div (mul $root 3) 4 }}MiB
{{- end -}}
{{- end }}

{{- define "buildsvc.seccomp" -}}
{{- $type := .Values.cluster.seccomp -}}
{{- if eq $type "auto" -}}
{{- $type = ternary "Localhost" "Unconfined" (eq .Values.cluster.kind "localhost") -}}
{{- end -}}
type: {{ $type }}
{{- if eq $type "Localhost" }}
localhostProfile: {{ .Values.cluster.localhostProfile }}
{{- end }}
{{- end }}

{{- define "buildsvc.appArmor" -}}
{{- $type := .Values.cluster.appArmor -}}
{{- if eq $type "auto" -}}
{{- $type = ternary "none" "Unconfined" (eq .Values.cluster.kind "localhost") -}}
{{- end -}}
{{- if ne $type "none" -}}
type: {{ $type }}
{{- if eq $type "Localhost" }}
localhostProfile: {{ .Values.cluster.appArmorProfile }}
{{- end }}
{{- end }}
{{- end }}

{{- define "buildsvc.tunFromHost" -}}
{{- if and (eq .Values.cluster.kind "tun") (eq .Values.cluster.tun "hostPath") -}}true{{- end -}}
{{- end }}

{{- define "buildsvc.sidecar.resources" -}}
{{- $resources := deepCopy .Values.sidecar.resources -}}
{{- if and (eq .Values.cluster.kind "tun") (eq .Values.cluster.tun "devicePlugin") -}}
{{- $name := required "cluster.tunResource must name the resource of the device plugin, such as squat.ai/tun" .Values.cluster.tunResource -}}
{{- $limits := merge (dict $name 1) (get $resources "limits" | default dict) -}}
{{- $resources = merge (dict "limits" $limits) $resources -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* (list $ cacheKey) */}}
{{- define "buildsvc.sidecar.env" -}}
{{- $root := index . 0 -}}
{{- $v := $root.Values -}}
- {name: BUILDSVC_ROOT, value: /var/lib/buildsvc}
- {name: BUILDSVC_ENDPOINT_FILE, value: /run/buildsvc/endpoint.json}
- {name: BUILDSVC_TLS_CLIENT_DIR, value: /run/buildsvc/tls/client}
- {name: BUILDSVC_HTTP_LISTEN, value: {{ $v.sidecar.httpListen | quote }}}
- {name: BUILDSVC_MAX_USED_SPACE, value: {{ include "buildsvc.maxUsedSpace" $root }}}
- {name: BUILDSVC_GRACE, value: {{ sub (int $v.sidecar.terminationGracePeriodSeconds) 30 }}s}
- {name: BUILDSVC_LOG_LEVEL, value: {{ $v.sidecar.logLevel }}}
{{- if eq $v.cluster.kind "userns" }}
- {name: BUILDSVC_PROCESS_SANDBOX, value: "on"}
{{- end }}
{{- with $v.sidecar.denyCidrs }}
- {name: BUILDSVC_DENY_CIDR, value: {{ join "," . | quote }}}
{{- end }}
{{- with $v.sidecar.uploadLimit }}
- {name: BUILDSVC_UPLOAD_LIMIT, value: {{ . }}}
{{- end }}
{{- with $v.store.url }}
- {name: BUILDSVC_STORE, value: {{ . | quote }}}
{{- end }}
{{- if $v.store.caConfigMap }}
- {name: AWS_CA_BUNDLE, value: /etc/buildsvc/store/ca.pem}
{{- end }}
- {name: BUILDSVC_CACHE_KEY, value: {{ index . 1 | quote }}}
{{- with $v.cache.fallbackKeys }}
- {name: BUILDSVC_FALLBACK_KEY, value: {{ join "," . | quote }}}
{{- end }}
- {name: BUILDSVC_TENANT, value: {{ $v.cache.tenant | quote }}}
- {name: BUILDSVC_TRUST_DOMAIN, value: {{ $v.cache.trustDomain | quote }}}
{{- with $v.cache.readDomains }}
- {name: BUILDSVC_READ_DOMAIN, value: {{ join "," . | quote }}}
- {name: BUILDSVC_FORK_READS, value: {{ $v.cache.forkReads }}}
{{- end }}
{{- with $v.cache.excludeMounts }}
- {name: BUILDSVC_EXCLUDE_MOUNT, value: {{ join "," . | quote }}}
{{- end }}
- {name: BUILDSVC_PUBLISH, value: {{ $v.cache.publish }}}
- {name: BUILDSVC_RESTORE, value: {{ $v.cache.restore }}}
{{- if $v.signing.existingSecret }}
- {name: BUILDSVC_SIGNING_KEY, value: {{ printf "/etc/buildsvc/signing/%s" $v.signing.secretKey }}}
{{- end }}
{{- if $v.signing.verifyConfigMap }}
- {name: BUILDSVC_VERIFY_KEY, value: {{ include "buildsvc.verifyKeys" $root | quote }}}
{{- end }}
{{- if include "buildsvc.hasRegistryConfig" $root }}
- {name: BUILDSVC_BUILDKITD_CONFIG, value: /etc/buildsvc/registry/buildkitd.toml}
{{- end }}
{{- with $v.sidecar.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* TENANT/DOMAIN=FILE of the values, with the directory that the ConfigMap is mounted at. */}}
{{- define "buildsvc.verifyKeys" -}}
{{- $keys := list -}}
{{- range .Values.signing.verifyKeys -}}
{{- $parts := splitn "=" 2 . -}}
{{- $keys = append $keys (printf "%s=/etc/buildsvc/verify/%s" $parts._0 $parts._1) -}}
{{- end -}}
{{- if not $keys -}}
{{- fail "signing.verifyKeys must say which keys of signing.verifyConfigMap may sign for what, such as [acme/protected=protected.pem]" -}}
{{- end -}}
{{ join "," $keys }}
{{- end }}

{{/* The container: (list $ cacheKey). */}}
{{- define "buildsvc.sidecar.container" -}}
{{- $root := index . 0 -}}
{{- $v := $root.Values -}}
name: buildsvc
image: {{ include "buildsvc.image" (list $root "sidecar") }}
imagePullPolicy: {{ $v.image.pullPolicy }}
restartPolicy: Always
command: [sidecar, run]
env:
  {{- include "buildsvc.sidecar.env" . | nindent 2 }}
{{- with $v.store.existingSecret }}
envFrom:
  # Optional: a namespace without the Secret has builds without a cache, not pods that do not start.
  - secretRef: {name: {{ . }}, optional: true}
{{- end }}
ports:
  - {name: buildsvc-http, containerPort: {{ regexFind "[0-9]+$" $v.sidecar.httpListen }}}
# The containers behind this one wait for it. It answers some tenths of a second after its start, long before the cache
# is there: clients that come early wait at the endpoint, and the restore uses the time of the steps before the build.
startupProbe:
  httpGet: {path: /healthz, port: buildsvc-http}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
# A process that does not answer for minutes: all that its end costs is this pod's cache, so it gets no time to publish.
livenessProbe:
  httpGet: {path: /healthz, port: buildsvc-http}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
  terminationGracePeriodSeconds: 30
# Tells people, and nobody waits for it: builds are served.
readinessProbe:
  httpGet: {path: /readyz, port: buildsvc-http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- with include "buildsvc.sidecar.resources" $root }}
resources:
  {{- . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  # newuidmap and newgidmap have file capabilities, which no_new_privs and a smaller bounding set would take away.
  allowPrivilegeEscalation: true
  capabilities:
    drop: [ALL]
    add: [SETUID, SETGID]
  seccompProfile:
    {{- include "buildsvc.seccomp" $root | nindent 4 }}
  {{- with include "buildsvc.appArmor" $root }}
  appArmorProfile:
    {{- . | nindent 4 }}
  {{- end }}
  {{- if eq $v.cluster.kind "userns" }}
  # A RUN step's own /proc can only be mounted where nothing of the pod's is masked.
  procMount: Unmasked
  {{- end }}
volumeMounts:
  - {name: buildsvc-root, mountPath: /var/lib/buildsvc}
  - {name: buildsvc-run, mountPath: /run/buildsvc}
  {{- if include "buildsvc.hasRegistryConfig" $root }}
  - {name: buildsvc-registry, mountPath: /etc/buildsvc/registry, readOnly: true}
  {{- end }}
  {{- if $v.store.caConfigMap }}
  - {name: buildsvc-store-ca, mountPath: /etc/buildsvc/store, readOnly: true}
  {{- end }}
  {{- if $v.signing.existingSecret }}
  - {name: buildsvc-signing, mountPath: /etc/buildsvc/signing, readOnly: true}
  {{- end }}
  {{- if $v.signing.verifyConfigMap }}
  - {name: buildsvc-verify, mountPath: /etc/buildsvc/verify, readOnly: true}
  {{- end }}
  {{- if include "buildsvc.tunFromHost" $root }}
  - {name: buildsvc-tun, mountPath: /dev/net/tun}
  {{- end }}
  {{- with $v.sidecar.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "buildsvc.sidecar.volumes" -}}
{{- $v := .Values -}}
- name: buildsvc-root
  emptyDir: {sizeLimit: {{ $v.sidecar.rootSize }}}
# The endpoint's address and the client's certificate: in memory, since there is a key among them.
- name: buildsvc-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- if include "buildsvc.hasRegistryConfig" . }}
- name: buildsvc-registry
  configMap: {name: buildsvc-registry}
{{- end }}
{{- with $v.registry.existingSecret }}
- name: buildsvc-registry-credentials
  secret: {secretName: {{ . }}}
{{- end }}
{{- with $v.store.caConfigMap }}
- name: buildsvc-store-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with $v.signing.existingSecret }}
# Readable by all users of the container that mounts it, the sidecar's: the files are root's, and a group for the whole
# pod (fsGroup) would reach into the other containers.
- name: buildsvc-signing
  secret: {secretName: {{ . }}, defaultMode: 0444}
{{- end }}
{{- with $v.signing.verifyConfigMap }}
- name: buildsvc-verify
  configMap: {name: {{ . }}}
{{- end }}
{{- if include "buildsvc.tunFromHost" . }}
- name: buildsvc-tun
  hostPath: {path: /dev/net/tun, type: CharDevice}
{{- end }}
{{- with $v.sidecar.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the pod itself needs, beside containers and volumes. */}}
{{- define "buildsvc.sidecar.pod" -}}
terminationGracePeriodSeconds: {{ .Values.sidecar.terminationGracePeriodSeconds }}
{{- if eq .Values.cluster.kind "userns" }}
hostUsers: false
{{- end }}
{{- if and (eq .Values.cluster.kind "tun") (eq .Values.cluster.tun "runtimeClass") }}
runtimeClassName: {{ .Values.cluster.runtimeClassName }}
{{- end }}
{{- end }}

{{/* Variables and mounts of the containers that build. */}}
{{- define "buildsvc.client.env" -}}
{{- with .Values.registry }}
{{- if .host }}
- {name: BUILDSVC_IMAGE_REGISTRY, value: {{ .host | quote }}}
{{- end }}
{{- if .ca }}
- {name: BUILDSVC_IMAGE_REGISTRY_CA, value: /etc/buildsvc/registry/ca.pem}
{{- end }}
{{- if .insecure }}
- {name: BUILDSVC_IMAGE_REGISTRY_INSECURE, value: "on"}
{{- end }}
{{- if .existingSecret }}
- {name: BUILDSVC_IMAGE_REGISTRY_SECRET, value: /etc/buildsvc/registry-credentials}
{{- end }}
{{- end }}
{{- end }}

{{- define "buildsvc.client.mounts" -}}
- {name: buildsvc-run, mountPath: /run/buildsvc, readOnly: true}
{{- if .Values.registry.ca }}
- {name: buildsvc-registry, mountPath: /etc/buildsvc/registry, readOnly: true}
{{- end }}
{{- if .Values.registry.existingSecret }}
- {name: buildsvc-registry-credentials, mountPath: /etc/buildsvc/registry-credentials, readOnly: true}
{{- end }}
{{- end }}
