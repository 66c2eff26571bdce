{{- /* The names, labels and checks that all templates share. */ -}}

{{- define "check" -}}
  {{- if ne .Release.Namespace "d8-system" -}}
    {{- fail "the chart belongs into the namespace d8-system: certificates and clients know the registry as registry.d8-system.svc" -}}
  {{- end -}}
  {{- if and (ne .Values.mode "Local") (not .Values.upstream.secretName) (not .Values.upstream.imagesRepo) -}}
    {{- fail (printf "mode %s needs upstream.secretName or upstream.imagesRepo" .Values.mode) -}}
  {{- end -}}
  {{- if and .Values.upstream.license (or .Values.upstream.username .Values.upstream.password) -}}
    {{- fail "upstream.license and upstream.username or password exclude each other" -}}
  {{- end -}}
  {{- if and (ne .Values.push.kind "None") (ne .Values.mode "Local") -}}
    {{- fail (printf "mode %s takes no pushes: push.kind has to be None" .Values.mode) -}}
  {{- end -}}
  {{- if and (ne .Values.push.kind "None") (not .Values.push.host) -}}
    {{- fail "push.host is missing" -}}
  {{- end -}}
  {{- if and (ne .Values.push.clientCertificate "None") (not .Values.push.trustedCA) -}}
    {{- fail "push.clientCertificate needs push.trustedCA, or the server would not believe it" -}}
  {{- end -}}
  {{- if eq .Values.push.kind "HTTPRoute" -}}
    {{- if ne .Values.push.clientCertificate "None" -}}
      {{- fail "push.clientCertificate: a standard HTTPRoute has no client certificate for its backend; use push.kind Ingress, or annotate the route by push.gateway.annotations" -}}
    {{- end -}}
    {{- if and .Values.push.sourceRanges (not .Values.push.gateway.annotations) -}}
      {{- fail "push.sourceRanges: a standard HTTPRoute has no source ranges, the endpoint would be open to all; set push.gateway.annotations to what your gateway calls them" -}}
    {{- end -}}
  {{- end -}}
  {{- range $key := list "mode" "repository" "listen" "adminListen" -}}
    {{- if hasKey $.Values.config $key -}}
      {{- fail (printf "config.%s: the chart sets it, by a value of its own" $key) -}}
    {{- end -}}
  {{- end -}}
  {{- if hasKey (.Values.config.store | default dict) "dir" -}}
    {{- fail "config.store.dir: the chart sets it, see store.hostPath" -}}
  {{- end -}}
  {{- if hasKey (.Values.config.limits | default dict) "drainDeadline" -}}
    {{- fail "config.limits.drainDeadline: pods would be killed before it; set drainSeconds" -}}
  {{- end -}}
  {{- $ports := list (int .Values.ports.registry) (int .Values.ports.admin) (int .Values.ports.metrics) -}}
  {{- if ne (len (uniq $ports)) 3 -}}
    {{- fail "ports: two of them are the same" -}}
  {{- end -}}
{{- end -}}

{{- define "labels" -}}
heritage: deckhouse
module: registry
app: d8-registry
app.kubernetes.io/name: d8-registry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* What the Services and the PodDisruptionBudget select, in every mode. */ -}}
{{- define "serverSelector" -}}
app: d8-registry
component: registry-server
{{- end -}}

{{- /* Labels of a pod: no version in them, or every upgrade of the chart would restart it. */ -}}
{{- define "podLabels" -}}
heritage: deckhouse
module: registry
app: d8-registry
component: {{ . }}
{{- end -}}

{{- define "isStatic" -}}
{{- if and (ne .Values.mode "Direct") (eq .Values.placement "StaticPod") }}true{{ end -}}
{{- end -}}

{{- define "hasUpstream" -}}
{{- if or .Values.upstream.secretName .Values.upstream.imagesRepo }}true{{ end -}}
{{- end -}}

{{- define "upstreamSecret" -}}
{{- .Values.upstream.secretName | default "d8-registry-upstream" -}}
{{- end -}}

{{- /* The users of the mode, one a word. Direct has none: its clients sign in as the upstream's user. */ -}}
{{- define "users" -}}
{{- if ne .Values.mode "Direct" }}ro{{ end -}}
{{- if eq .Values.mode "Local" }} rw{{ if .Values.secrets.mirrorUsers }} mirror-puller mirror-pusher{{ end }}{{ end -}}
{{- end -}}

{{- define "pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
