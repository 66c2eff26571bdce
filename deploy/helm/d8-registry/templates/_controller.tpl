{{- /* What the controller takes over: what it begins with, and what it has made of it. */ -}}

{{- /* The mode file of the cluster as JSON, {} where there is none; asked for once for all templates. */ -}}
{{- define "modeFile" -}}
{{- if not (hasKey .Values "madeModeFile") -}}
  {{- $secret := lookup "v1" "Secret" .Release.Namespace "d8-registry-mode" | default dict -}}
  {{- $text := index ($secret.data | default dict) "mode.yaml" | default "" | b64dec -}}
  {{- $_ := set .Values "madeModeFile" (fromYaml $text) -}}
{{- end -}}
{{- .Values.madeModeFile | toJson -}}
{{- end -}}

{{- /* The mode that the controller has in force; empty without a mode file. */ -}}
{{- define "modeInForce" -}}
{{- dig "inForce" "mode" "" (include "modeFile" . | fromJson) -}}
{{- end -}}

{{- /* The upstream of the values as JSON: their own, or what the Secret that they name has in the cluster. */ -}}
{{- define "seedUpstream" -}}
{{- $v := .Values.upstream -}}
{{- $found := dict "imagesRepo" $v.imagesRepo "scheme" $v.scheme "ca" $v.ca "username" $v.username "password" $v.password -}}
{{- if $v.license -}}
  {{- $found = merge (dict "username" "license-token" "password" $v.license) $found -}}
{{- end -}}
{{- if $v.secretName -}}
  {{- $secret := lookup "v1" "Secret" .Release.Namespace $v.secretName -}}
  {{- $found = dict -}}
  {{- range $key := list "imagesRepo" "scheme" "ca" "username" "password" "ttl" -}}
    {{- $_ := set $found $key (index (($secret | default dict).data | default dict) $key | default "" | b64dec) -}}
  {{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- /* The first mode file; empty where the upstream is not known. */ -}}
{{- define "seedModeFile" -}}
{{- $inForce := dict "mode" .Values.mode -}}
{{- $known := true -}}
{{- if has .Values.mode (list "Direct" "Proxy") -}}
  {{- $from := include "seedUpstream" . | fromJson -}}
  {{- $known = not (empty $from.imagesRepo) -}}
  {{- if and (not $known) (lookup "v1" "Namespace" "" .Release.Namespace) -}}
    {{- fail (printf "upstream.secretName: there is no Secret %s with imagesRepo, and the first mode is made of it" .Values.upstream.secretName) -}}
  {{- end -}}
  {{- $upstream := dict "imagesRepo" $from.imagesRepo "scheme" ($from.scheme | default "HTTPS" | upper) -}}
  {{- range $key := list "ca" "username" "password" -}}
    {{- with index $from $key }}{{ $_ := set $upstream $key . }}{{ end -}}
  {{- end -}}
  {{- $_ := set $inForce "upstream" $upstream -}}
  {{- if eq .Values.mode "Proxy" -}}
    {{- /* For ever is said too: the controller reads no Proxy without a time. */ -}}
    {{- $_ := set $inForce "ttl" (dig "proxy" "ttl" ($from.ttl | default "") .Values.config | default "0s") -}}
  {{- end -}}
{{- end -}}
{{- if $known -}}
{{- dict "version" 1 "generation" 1 "inForce" $inForce | toYaml -}}
{{- end -}}
{{- end -}}

{{- /* Pods of the controller: as many as can run, each has its ports on a node of its own. */ -}}
{{- define "controllerReplicas" -}}
{{- if .Values.controller.replicas -}}
  {{- .Values.controller.replicas -}}
{{- else -}}
  {{- $nodes := 0 -}}
  {{- range (lookup "v1" "Node" "" "").items -}}
    {{- $labels := .metadata.labels | default dict -}}
    {{- $wanted := true -}}
    {{- range $key, $value := $.Values.nodeSelector -}}
      {{- if or (not (hasKey $labels $key)) (ne (index $labels $key | default "" | toString) ($value | toString)) }}{{ $wanted = false }}{{ end -}}
    {{- end -}}
    {{- if $wanted }}{{ $nodes = add $nodes 1 }}{{ end -}}
  {{- end -}}
  {{- ternary 1 2 (eq (int $nodes) 1) -}}
{{- end -}}
{{- end -}}
