{{- /* The server's configuration. Everything else lies in /etc/d8-registry, as mounted Secrets or as the node's copies. */ -}}
{{- define "configuration" -}}
{{- $v := .Values -}}
{{- $c := dict
    "mode" (ternary "Local" $v.mode (eq $v.mode "Unmanaged"))
    "repository" $v.repository
    "adminListen" (printf "127.0.0.1:%d" (int $v.ports.admin))
    "tls" (dict "certFile" "/etc/d8-registry/tls/tls.crt" "keyFile" "/etc/d8-registry/tls/tls.key")
    "store" (dict "dir" "/data" "reserveBytes" $v.store.reserveBytes "mustExist" $v.store.mustExist)
    "auth" (dict "token" (dict "signingKeyFile" "/etc/d8-registry/token/token.key" "signingCertFile" "/etc/d8-registry/token/token.crt"))
    "limits" (dict "drainDeadline" (printf "%ds" (int $v.drainSeconds)))
    "log" (dict "format" "json")
-}}
{{- if not (include "inPodNetwork" .) }}
  {{- /* In Direct the kubelet asks at the pod's addresses, which the pod alone knows: an argument. */ -}}
  {{- $_ := set $c "probeListen" (printf "127.0.0.1:%d" (int $v.ports.probe)) -}}
{{- end -}}
{{- if include "inPodNetwork" . }}
  {{- /* Nothing is stored: a token's key is given, and the room is the pod's. */ -}}
  {{- $_ := set $c "store" (dict "dir" "/data" "reserveBytes" "0") -}}
{{- else -}}
  {{- $_ := set $c.auth "usersDir" "/etc/d8-registry/users" -}}
  {{- with $v.store.maxBytes }}{{ $_ := set $c.store "maxBytes" . }}{{ end -}}
  {{- if $v.store.expected }}{{ $_ := set $c.store "expected" "/etc/d8-registry/config/expected.yaml" }}{{ end -}}
{{- end -}}
{{- if include "replicated" . -}}
  {{- $_ := set $c "replicas" (dict "peers" "/etc/d8-registry/masters/backends" "certificate" "/etc/d8-registry/tls/peer.crt" "key" "/etc/d8-registry/tls/peer.key" "ca" "/etc/d8-registry/token/ca.crt") -}}
{{- end -}}
{{- if $v.push.trustedCA -}}
  {{- $_ := set $c.tls "clientCAFile" "/etc/d8-registry/config/trusted-ca.crt" -}}
  {{- $_ := set $c.tls "trustedProxyNames" $v.push.trustedNames -}}
{{- end -}}
{{- $gc := dict -}}
{{- range $key, $value := $v.gc }}{{ if $value }}{{ $_ := set $gc $key $value }}{{ end }}{{ end -}}
{{- if $gc }}{{ $_ := set $c "gc" $gc }}{{ end -}}
{{- $retention := dict -}}
{{- with $v.retention.releases.keep }}{{ $_ := set $retention "releases" (dict "keep" (int .)) }}{{ end -}}
{{- with $v.retention.rules }}{{ $_ := set $retention "rules" . }}{{ end -}}
{{- if $retention -}}
  {{- if not (include "controlled" .) }}{{ fail "retention needs controller.enabled: the controller writes what must not go" }}{{ end -}}
  {{- $_ := set $c "retention" $retention -}}
{{- end -}}
{{- if include "hasUpstream" . -}}
  {{- $_ := set $c "upstream" (dict "secretDir" "/etc/d8-registry/upstream") -}}
{{- end -}}
{{- if include "controlled" . -}}
  {{- /* Unmanaged is a word of the mode file alone. Where the file is there mode, upstream and proxy.ttl come from it, and these keys are only what it began with. */ -}}
  {{- $_ := set $c "modeFile" "/etc/d8-registry/mode/mode.yaml" -}}
  {{- /* Of what the controller writes: nothing that runs goes out of a store. */ -}}
  {{- $_ := set $c.store "pins" "/etc/d8-registry/pins/pins.yaml" -}}
  {{- $_ := set $c.tls "controllerCAFile" "/etc/d8-registry/token/ca.crt" -}}
{{- end -}}
{{- mergeOverwrite $c (deepCopy $v.config) | toYaml -}}
{{- end -}}

{{- /* Changes when a key changes that a running server does not take; then the pod is made anew. */ -}}
{{- define "restartChecksum" -}}
{{- $c := include "configuration" . | fromYaml -}}
{{- $limits := $c.limits | default dict -}}
{{- /* The corporate proxy is read at the start; its password is no part of this, a hash of it would tell too much. */ -}}
{{- $proxies := list (include "withoutLogin" .Values.httpProxy.http) (include "withoutLogin" .Values.httpProxy.https) -}}
{{- toJson (list $c.adminListen $c.probeListen $proxies ($c.tls | default dict).disabled $c.store.dir $c.store.mustExist $limits.workerThreads $limits.passwordChecks ($c.log | default dict).format) | sha256sum -}}
{{- end -}}
