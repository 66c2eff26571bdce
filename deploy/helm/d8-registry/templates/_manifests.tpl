{{- /* The static pods. The API server is not asked for any of it: what they read are copies on the node, names are
  looked up as the node does. */ -}}

{{- define "staticServer" -}}
{{- $files := .Values.staticPod.files -}}
apiVersion: v1
kind: Pod
metadata:
  name: d8-registry
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "podLabels" "registry-server" | nindent 4 }}
  annotations:
    registry.deckhouse.io/restart-checksum: {{ include "restartChecksum" . }}
spec:
  hostNetwork: true
  dnsPolicy: Default
  priorityClassName: system-node-critical
  priority: 2000001000
  terminationGracePeriodSeconds: {{ add .Values.drainSeconds 15 }}
  {{- include "podSecurity" . | nindent 2 }}
  initContainers:
    {{- include "dataFolder" . | nindent 4 }}
  containers:
    {{- include "nodeServer" . | nindent 4 }}
      volumeMounts:
        {{- include "secretMounts" . | nindent 8 }}
        - {name: data, mountPath: /data}
  volumes:
    - name: data
      hostPath: {path: {{ .Values.store.hostPath }}, type: DirectoryOrCreate}
    {{- range concat (list "config" "token" "tls" "users" "upstream") (ternary (list "masters") list (eq (include "replicated" .) "true")) (ternary (list "pins" "mode") list (eq (include "controlled" .) "true")) }}
    - name: {{ . }}
      hostPath: {path: {{ $files }}/{{ . }}, type: Directory}
    {{- end }}
{{- end -}}

{{- /* Spec of node-proxy, but for its volumes: as static pod and in a DaemonSet. */ -}}
{{- define "nodeProxySpec" -}}
hostNetwork: true
priorityClassName: system-node-critical
terminationGracePeriodSeconds: {{ add .Values.drainSeconds 15 }}
{{ include "podSecurity" . }}
containers:
  - name: node-proxy
    image: {{ .Values.image.reference }}
    imagePullPolicy: IfNotPresent
    args:
      - node-proxy
      - --listen=127.0.0.1:{{ .Values.ports.registry }}
      - --backends-file=/etc/d8-registry-node-proxy/backends
      - --backend-tls
      - --drain-deadline={{ .Values.drainSeconds }}s
      {{- if include "controlled" . }}
      - --admin-listen=127.0.0.1:{{ .Values.ports.nodeProxy }}
      {{- end }}
    livenessProbe:
      {{- /* Another process may hold the registry's address, and would answer there. */}}
      {{- if include "controlled" . }}
      httpGet: {host: 127.0.0.1, port: {{ .Values.ports.nodeProxy }}, path: /healthz}
      {{- else }}
      tcpSocket: {host: 127.0.0.1, port: {{ .Values.ports.registry }}}
      {{- end }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    resources:
      {{- toYaml .Values.nodeProxy.resources | nindent 6 }}
    {{- include "containerSecurity" . | nindent 4 }}
    volumeMounts:
      - {name: backends, mountPath: /etc/d8-registry-node-proxy, readOnly: true}
{{- end -}}

{{- define "staticNodeProxy" -}}
apiVersion: v1
kind: Pod
metadata:
  name: d8-registry-node-proxy
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "podLabels" "registry-node-proxy" | nindent 4 }}
spec:
  priority: 2000001000
  {{- include "nodeProxySpec" . | nindent 2 }}
  volumes:
    - name: backends
      hostPath: {path: {{ .Values.nodeProxy.files }}/backends, type: Directory}
{{- end -}}

{{- /* The ConfigMap of the masters' addresses: helm's at each upgrade, or the controller's. */ -}}
{{- define "mastersList" -}}
{{- ternary "d8-registry-masters" "d8-registry-node-proxy" (eq (include "controlled" .) "true") -}}
{{- end -}}

{{- /* host:port of each master, one a line; nothing where neither the values nor the cluster say. */ -}}
{{- define "masters" -}}
{{- if .Values.nodeProxy.backends -}}
  {{- join "\n" .Values.nodeProxy.backends }}
{{ else -}}
  {{- $found := list -}}
  {{- range (lookup "v1" "Node" "" "").items -}}
    {{- $node := . -}}
    {{- $wanted := true -}}
    {{- range $key, $value := $.Values.nodeSelector -}}
      {{- if ne (index ($node.metadata.labels | default dict) $key | default "" | toString) ($value | toString) }}{{ $wanted = false }}{{ end -}}
      {{- if not (hasKey ($node.metadata.labels | default dict) $key) }}{{ $wanted = false }}{{ end -}}
    {{- end -}}
    {{- if $wanted -}}
      {{- $address := "" -}}
      {{- range $node.status.addresses -}}
        {{- if and (eq .type "InternalIP") (not $address) }}{{ $address = .address }}{{ end -}}
      {{- end -}}
      {{- if $address -}}
        {{- $found = append $found (printf (ternary "[%s]:%d" "%s:%d" (contains ":" $address)) $address (int $.Values.ports.registry)) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- join "\n" (sortAlpha $found) }}
{{ end -}}
{{- end -}}

{{- define "backends" -}}
{{- include "masters" . | trim | required "nodeProxy.backends is empty, and helm sees no cluster with control-plane nodes" -}}
{{- end -}}
