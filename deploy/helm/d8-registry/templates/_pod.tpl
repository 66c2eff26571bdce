{{- /* Pieces of pods. */ -}}

{{- define "podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.user }}
  runAsGroup: {{ .Values.group }}
  fsGroup: {{ .Values.group }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.user }}
  runAsGroup: {{ .Values.group }}
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /* For what writes into folders of the node that are root's, or gives files away. */ -}}
{{- define "rootSecurity" -}}
securityContext:
  runAsNonRoot: false
  runAsUser: 0
  runAsGroup: 0
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
    add: [CHOWN, DAC_OVERRIDE]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "smallResources" -}}
resources:
  requests:
    cpu: 5m
    memory: 16Mi
  limits:
    memory: 64Mi
{{- end -}}

{{- /* What the server listens on and has a certificate for: the node's addresses, or the pod's in the pod network. */ -}}
{{- define "addresses" -}}
- name: ADDRESSES
  valueFrom:
    fieldRef:
      fieldPath: {{ if include "inPodNetwork" . }}status.podIPs{{ else }}{{ .Values.hostAddresses }}{{ end }}
{{- end -}}

{{- /* An address without what stands before its last @. */ -}}
{{- define "withoutLogin" -}}
{{- splitList "@" (. | default "") | last -}}
{{- end -}}

{{- /* An address with a password is in the Secret of the configuration: whoever may read pods, ConfigMaps or a node's
  manifests may not read that. */ -}}
{{- define "proxyVariables" -}}
{{- range $name, $value := dict "http" .Values.httpProxy.http "https" .Values.httpProxy.https }}
{{- if contains "@" ($value | default "") }}
- name: {{ upper $name }}_PROXY_FILE
  value: /etc/d8-registry/config/{{ $name }}-proxy
{{- else if $value }}
- name: {{ upper $name }}_PROXY
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.httpProxy.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* The server on a control-plane node, on the node's own network: as static pod or in a DaemonSet.
  Probes ask over the loopback, at a listener that nothing else uses. */ -}}
{{- define "nodeServer" -}}
- name: registry
  image: {{ .Values.image.reference }}
  imagePullPolicy: IfNotPresent
  args:
    - serve
    - --config=/etc/d8-registry/config/config.yaml
    - --listen=$(ADDRESSES):{{ .Values.ports.registry }}
    {{- /* The one before drains, and has the store until its end. */}}
    - --wait-for-store={{ add .Values.drainSeconds 30 }}s
  env:
    {{- include "addresses" . | nindent 4 }}
    {{- with include "proxyVariables" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  startupProbe:
    httpGet: {host: 127.0.0.1, port: {{ .Values.ports.probe }}, path: /healthz}
    periodSeconds: 2
    failureThreshold: 60
  livenessProbe:
    httpGet: {host: 127.0.0.1, port: {{ .Values.ports.probe }}, path: /healthz}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: {host: 127.0.0.1, port: {{ .Values.ports.probe }}, path: /readyz}
    periodSeconds: 5
    timeoutSeconds: 5
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  {{- include "containerSecurity" . | nindent 2 }}
{{- end -}}

{{- /* What is taken over lies where whoever orders it sees it. */ -}}
{{- define "importMount" -}}
{{- with .Values.store.importFrom }}
- {name: import, mountPath: {{ . }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "importVolume" -}}
{{- with .Values.store.importFrom }}
- name: import
  hostPath: {path: {{ . }}, type: DirectoryOrCreate}
{{- end }}
{{- end -}}

{{- /* hostPath makes the folder as root's; the server must own it. */ -}}
{{- define "dataFolder" -}}
- name: data-folder
  image: {{ .Values.image.reference }}
  imagePullPolicy: IfNotPresent
  args: [own-folder, "--owner={{ .Values.user }}:{{ .Values.group }}", /data]
  {{- include "smallResources" . | nindent 2 }}
  {{- include "rootSecurity" . | nindent 2 }}
  volumeMounts:
    - {name: data, mountPath: /data}
{{- end -}}

{{- /* A certificate of the pod's own, kept in memory, and of a master beside it the one that it shows to other masters. The
  authority's key is only mounted here. */ -}}
{{- define "certificate" -}}
- name: certificate
  image: {{ .Values.image.reference }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [pki, issue, --ca-cert=/authority/ca.crt, --ca-key=/authority/ca.key, --san=$(ADDRESSES), {{ if not (include "inPodNetwork" .) }}--peer, {{ end }}--out=/etc/d8-registry/tls]
  env:
    {{- include "addresses" . | nindent 4 }}
  {{- include "smallResources" . | nindent 2 }}
  {{- include "containerSecurity" . | nindent 2 }}
  volumeMounts:
    - {name: authority, mountPath: /authority, readOnly: true}
    - {name: tls, mountPath: /etc/d8-registry/tls}
{{- end -}}

{{- define "secretMounts" -}}
- {name: config, mountPath: /etc/d8-registry/config, readOnly: true}
- {name: token, mountPath: /etc/d8-registry/token, readOnly: true}
- {name: tls, mountPath: /etc/d8-registry/tls, readOnly: true}
- {name: users, mountPath: /etc/d8-registry/users, readOnly: true}
- {name: upstream, mountPath: /etc/d8-registry/upstream, readOnly: true}
{{- if include "replicated" . }}
- {name: masters, mountPath: /etc/d8-registry/masters, readOnly: true}
{{- end }}
{{- if include "controlled" . }}
- {name: pins, mountPath: /etc/d8-registry/pins, readOnly: true}
- {name: mode, mountPath: /etc/d8-registry/mode, readOnly: true}
{{- end }}
{{- end -}}

{{- /* What a mode has none of is an empty folder: the node's copy of it is emptied then too. */ -}}
{{- define "configVolumes" -}}
- name: config
  secret:
    secretName: d8-registry-config
    defaultMode: 0440
- name: token
  secret:
    secretName: registry-pki
    defaultMode: 0440
    items:
      - {key: token.crt, path: token.crt}
      - {key: token.key, path: token.key}
      {{- if or (include "controlled" .) (include "replicated" .) }}
      - {key: ca.crt, path: ca.crt}
      {{- end }}
- name: users
  {{- if include "inPodNetwork" . }}
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- else }}
  projected:
    defaultMode: 0440
    sources:
      {{- range splitList " " (include "users" .) }}
      {{- $user := . }}
      - secret:
          name: registry-user-{{ $user }}
          {{- if include "controlled" $ }}
          optional: true
          {{- end }}
          items:
            {{- range list "name" "password" "passwordHash" }}
            - {key: {{ . }}, path: registry-user-{{ $user }}/{{ . }}}
            {{- end }}
      {{- end }}
  {{- end }}
- name: upstream
  {{- if include "hasUpstream" . }}
  secret:
    secretName: {{ include "upstreamSecret" . }}
    defaultMode: 0440
    {{- if include "controlled" . }}
    optional: true
    {{- end }}
  {{- else }}
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- end }}
{{- if include "replicated" . }}
{{- /* Without it this master is the only one. */}}
- name: masters
  configMap:
    name: {{ include "mastersList" . }}
    optional: true
{{- end }}
{{- if include "controlled" . }}
{{- /* Without it no content goes. */}}
- name: pins
  secret:
    secretName: registry-pins
    defaultMode: 0440
    optional: true
{{- /* Without it the keys of the configuration count. */}}
- name: mode
  secret:
    secretName: d8-registry-mode
    defaultMode: 0440
    optional: true
{{- end }}
{{- end -}}

{{- define "authorityVolumes" -}}
- name: authority
  secret:
    secretName: registry-pki
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      - {key: ca.key, path: ca.key}
{{- end -}}

{{- /* A token of the pod's ServiceAccount, for the containers that mount it. */ -}}
{{- define "apiAccess" -}}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - {path: namespace, fieldRef: {fieldPath: metadata.namespace}}
{{- end -}}

{{- define "tlsVolume" -}}
- name: tls
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end -}}

{{- /* Nodes without bashible. */ -}}
{{- define "nodeAgentAffinity" -}}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: node.deckhouse.io/group, operator: DoesNotExist}
            {{- with .Values.nodeAgent.nodeExpressions }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
{{- end -}}
