{{- /* The static pods. The API server is not asked for any of it: what they read are copies on the node, names are
  looked up as the node does.

  Each change gives the pod another name, by NAMED-BY-CONTENT. The kubelet begins a static pod of a name that it had only some
  ten seconds after the end of the one before, one of another name at once, while the one before ends. */ -}}

{{- define "namedByContent" -}}
{{- . | replace "NAMED-BY-CONTENT" (. | sha256sum | trunc 8) -}}
{{- end -}}

{{- define "staticServer" -}}
apiVersion: v1
kind: Pod
metadata:
  name: d8-registry-NAMED-BY-CONTENT
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
        {{- /* The directory above the copies: a changed copy is another directory, which takes the place of the one before. */}}
        - {name: files, mountPath: /etc/d8-registry, readOnly: true}
        - {name: data, mountPath: /data}
        {{- with include "importMount" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: data
      hostPath: {path: {{ .Values.store.hostPath }}, type: DirectoryOrCreate}
    {{- with include "importVolume" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    - name: files
      hostPath: {path: {{ .Values.staticPod.files }}, type: Directory}
{{- end -}}

{{- /* Spec of node-proxy, but for its volumes: as static pod, from the node's copies, and in a DaemonSet. */ -}}
{{- define "nodeProxySpec" -}}
{{- with .root -}}
hostNetwork: true
priorityClassName: system-node-critical
terminationGracePeriodSeconds: {{ add .Values.drainSeconds 25 }}
{{ include "podSecurity" . }}
containers:
  - name: node-proxy
    image: {{ .Values.image.reference }}
    imagePullPolicy: IfNotPresent
    args:
      - node-proxy
      - --listen=127.0.0.1:{{ .Values.ports.registry }}
      - --backends-file=/etc/d8-registry-node-proxy/backends/backends
      - --backend-tls
      - --drain-deadline={{ .Values.drainSeconds }}s
      {{- /* What comes in its place begins when this one is told to end. */}}
      - --hand-over=10s
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
{{- end }}
    volumeMounts:
      - {name: backends, mountPath: {{ .mount }}, readOnly: true}
{{- end -}}

{{- define "staticNodeProxy" -}}
apiVersion: v1
kind: Pod
metadata:
  name: d8-registry-node-proxy-NAMED-BY-CONTENT
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "podLabels" "registry-node-proxy" | nindent 4 }}
spec:
  priority: 2000001000
  {{- include "nodeProxySpec" (dict "root" . "mount" "/etc/d8-registry-node-proxy") | nindent 2 }}
  volumes:
    - name: backends
      hostPath: {path: {{ .Values.nodeProxy.files }}, type: Directory}
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
