{{- /* The names, labels and checks that all templates share. */ -}}

{{- define "check" -}}
  {{- if ne .Release.Namespace "d8-system" -}}
    {{- fail "the chart belongs into the namespace d8-system: certificates and clients know the registry as registry.d8-system.svc" -}}
  {{- end -}}
  {{- if and (has .Values.mode (list "Direct" "Proxy")) (not .Values.upstream.secretName) (not .Values.upstream.imagesRepo) (not (include "modeInForce" .)) -}}
    {{- fail (printf "mode %s needs upstream.secretName or upstream.imagesRepo" .Values.mode) -}}
  {{- end -}}
  {{- if and (eq .Values.mode "Unmanaged") (not (include "controlled" .)) -}}
    {{- fail "mode Unmanaged is one that the controller leaves: it needs controller.enabled" -}}
  {{- end -}}
  {{- if and (eq .Values.mode "Unmanaged") (not .Values.secrets.create) -}}
    {{- fail "mode Unmanaged stands in the Secret d8-registry-mode alone: it needs secrets.create" -}}
  {{- end -}}
  {{- if and (include "controlled" .) (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
    {{- fail "controller.enabled needs Kubernetes 1.30, whose ValidatingAdmissionPolicy limits what it may create" -}}
  {{- end -}}
  {{- if and .Values.nodeAgent.enabled (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
    {{- fail "nodeAgent.enabled needs Kubernetes 1.30, whose tokens name the node that a pod is on, and whose ValidatingAdmissionPolicy goes by it" -}}
  {{- end -}}
  {{- if and .Values.upstream.license (or .Values.upstream.username .Values.upstream.password) -}}
    {{- fail "upstream.license and upstream.username or password exclude each other" -}}
  {{- end -}}
  {{- if and (ne .Values.push.kind "None") (ne .Values.mode "Local") (not (include "controlled" .)) -}}
    {{- fail (printf "mode %s takes no pushes: push.kind has to be None" .Values.mode) -}}
  {{- end -}}
  {{- if and (ne .Values.push.kind "None") (not .Values.push.host) -}}
    {{- fail "push.host is missing" -}}
  {{- end -}}
  {{- if ne .Values.push.kind "None" -}}
    {{- $masters := len (compact (splitList "\n" (include "masters" . | trim))) -}}
    {{- $alone := and (gt $masters 1) (not (include "replicated" .)) -}}
    {{- if and $alone (not .Values.push.manyMasters) -}}
      {{- fail (printf "push.kind %s: a push reaches one of %d masters, which do not know each other, and the others answer 404 for it. Set replicas.enabled: true, or push to each, at MASTER:%d, and say so with push.manyMasters" .Values.push.kind $masters (int .Values.ports.registry)) -}}
    {{- end -}}
    {{- if and (eq .Values.push.kind "HTTPRoute") (not .Values.push.gateway.alb) -}}
      {{- if $alone -}}
        {{- fail "push.kind HTTPRoute: an upload is state of one master where they do not know each other (replicas.enabled), and only with push.gateway.alb does a client stay with one" -}}
      {{- end -}}
      {{- if .Values.push.sourceRanges -}}
        {{- fail "push.sourceRanges: with HTTPRoute only push.gateway.alb holds them; without it everybody could push" -}}
      {{- end -}}
    {{- end -}}
    {{- if and (eq .Values.push.kind "HTTPRoute") (ne .Values.push.clientCertificate "None") (or (not .Values.push.gateway.alb) (ne .Values.push.clientCertificate "Controller")) -}}
      {{- fail "push.clientCertificate: with HTTPRoute it has to be Controller with push.gateway.alb, or None" -}}
    {{- end -}}
  {{- end -}}
  {{- range $key, $instead := dict "mode" "mode" "repository" "repository" "listen" "ports.registry" "adminListen" "ports.admin" "probeListen" "ports.probe" "store.dir" "store.hostPath" "limits.drainDeadline" "drainSeconds" "modeFile" "controller.enabled" "tls.controllerCAFile" "controller.enabled" "tls.disabled" "" -}}
    {{- $at := $.Values.config -}}
    {{- $there := true -}}
    {{- range splitList "." $key -}}
      {{- if and (kindIs "map" $at) (hasKey $at .) }}{{ $at = index $at . }}{{ else }}{{ $there = false }}{{ end -}}
    {{- end -}}
    {{- if $there -}}
      {{- fail (printf "config: %s %s" $key (ternary "can't be changed: probes and node-proxy speak TLS" (printf "is the chart's own, pods rely on it: set the value %s" $instead) (empty $instead))) -}}
    {{- end -}}
  {{- end -}}
  {{- if and (include "controlled" .) (dig "store" "pins" "" .Values.config) -}}
    {{- fail "config: store.pins is the chart's own with controller.enabled: the controller writes it" -}}
  {{- end -}}
  {{- if and (ne .Values.push.clientCertificate "None") (not .Values.push.trustedCA) -}}
    {{- fail "push.clientCertificate needs push.trustedCA, or the server would not believe it" -}}
  {{- end -}}
  {{- $ports := list (int .Values.ports.registry) (int .Values.ports.admin) (int .Values.ports.metrics) (int .Values.ports.probe) -}}
  {{- if include "controlled" . -}}
    {{- $ports = concat $ports (list (int .Values.ports.controller) (int .Values.ports.controllerMetrics) (int .Values.ports.nodeProxy) (int .Values.ports.nodeProxyMetrics)) -}}
  {{- end -}}
  {{- if .Values.nodeAgent.enabled -}}
    {{- $ports = concat $ports (list (int .Values.ports.nodeAgent) (int .Values.ports.nodeAgentMetrics)) -}}
  {{- end -}}
  {{- if ne (len (uniq $ports)) (len $ports) -}}
    {{- fail "ports: two of them are the same" -}}
  {{- end -}}
  {{- /* What lands in ConfigMaps, in pods and in manifests on nodes is no place for secrets. None of the sentences repeats the value. */ -}}
  {{- if contains "@" .Values.upstream.imagesRepo -}}
    {{- fail "upstream.imagesRepo has a user or password in front of an @: set upstream.username and upstream.password, or upstream.license; they go into a Secret" -}}
  {{- end -}}
  {{- range $key, $value := dict "image.reference" .Values.image.reference "image.next" .Values.image.next "metrics.kubeRbacProxyImage" .Values.metrics.kubeRbacProxyImage -}}
    {{- if contains "@" (splitList "/" ($value | default "") | first) -}}
      {{- fail (printf "%s has a user or password in front of an @, and would stand in pods: name a Secret in image.pullSecrets" $key) -}}
    {{- end -}}
  {{- end -}}
  {{- if contains "@" (join "," .Values.nodeProxy.backends) -}}
    {{- fail "nodeProxy.backends: host:port without user and password, they would stand in a ConfigMap; node-proxy passes on what clients sign in with" -}}
  {{- end -}}
  {{- if contains "@" (.Values.httpProxy.noProxy | default "") -}}
    {{- fail "httpProxy.noProxy has an @: it is a list of names, addresses and networks, and stands in pods" -}}
  {{- end -}}
  {{- range $key, $value := dict "upstream.ca" .Values.upstream.ca "push.trustedCA" .Values.push.trustedCA "push.gateway.registryCA" .Values.push.gateway.registryCA "metrics.clientCA" .Values.metrics.clientCA -}}
    {{- if contains "PRIVATE KEY" ($value | default "") -}}
      {{- fail (printf "%s has a private key in it: it takes certificates alone, and others may read them" $key) -}}
    {{- end -}}
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

{{- /* On what is made once and belongs to others from then on: made by a hook it is in no revision's manifest, so neither an
  upgrade nor a rollback nor the end of the release touches it. One that is there by then fails the hook and is not overwritten. */ -}}
{{- define "madeOnce" -}}
helm.sh/resource-policy: keep
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-delete-policy: hook-failed
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

{{- /* The servers' configuration as the release has it so far. Of an install that was refused or cut there is none: to helm the next
  attempt is an upgrade, and still a new release's. */ -}}
{{- define "configurationBefore" -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace "d8-registry-config" | default dict -}}
{{- index ($secret.data | default dict) "config.yaml" | default "" | b64dec -}}
{{- end -}}

{{- /* "true" with the controller. An empty value is yes for a new release, and at an upgrade what was so before. Found out
  once for all templates. */ -}}
{{- define "controlled" -}}
{{- if not (hasKey .Values "madeControlled") -}}
  {{- $enabled := (.Values.controller | default dict).enabled -}}
  {{- if not (kindIs "bool" $enabled) -}}
    {{- $before := include "configurationBefore" . | fromYaml -}}
    {{- $has := or (hasKey $before "modeFile") (not (empty (lookup "apps/v1" "Deployment" .Release.Namespace "d8-registry-controller"))) -}}
    {{- $enabled = or .Release.IsInstall (empty $before) $has -}}
  {{- end -}}
  {{- $_ := set .Values "madeControlled" (ternary "true" "" $enabled) -}}
{{- end -}}
{{- .Values.madeControlled -}}
{{- end -}}

{{- /* Direct without the controller: servers in the pod network, since only what is in the cluster asks them. */ -}}
{{- define "inPodNetwork" -}}
{{- if and (eq .Values.mode "Direct") (not (include "controlled" .)) }}true{{ end -}}
{{- end -}}

{{- /* "true" where a master knows the others. An empty value is yes for a new release, and at an upgrade what was so before: a
  release that has run without does not begin to fetch because its chart is a newer one. Found out once for all templates. */ -}}
{{- define "replicated" -}}
{{- if not (hasKey .Values "madeReplicated") -}}
  {{- $enabled := (.Values.replicas | default dict).enabled -}}
  {{- if not (kindIs "bool" $enabled) -}}
    {{- $before := include "configurationBefore" . | fromYaml -}}
    {{- $enabled = or .Release.IsInstall (empty $before) (not (empty (dig "replicas" "peers" "" $before))) -}}
  {{- end -}}
  {{- $_ := set .Values "madeReplicated" (ternary "true" "" (and $enabled (not (include "inPodNetwork" .)))) -}}
{{- end -}}
{{- .Values.madeReplicated -}}
{{- end -}}

{{- define "isStatic" -}}
{{- if and (not (include "inPodNetwork" .)) (eq .Values.placement "StaticPod") }}true{{ end -}}
{{- end -}}

{{- define "hasUpstream" -}}
{{- if or .Values.upstream.secretName .Values.upstream.imagesRepo }}true{{ end -}}
{{- end -}}

{{- define "upstreamSecret" -}}
{{- .Values.upstream.secretName | default "d8-registry-upstream" -}}
{{- end -}}

{{- /* The users of the mode, one a word; with the controller those of every mode. Direct has none: its clients sign in as the
  upstream's user. */ -}}
{{- define "users" -}}
{{- if include "controlled" . }}ro rw mirror-puller mirror-pusher{{ else -}}
{{- if ne .Values.mode "Direct" }}ro{{ end -}}
{{- if eq .Values.mode "Local" }} rw{{ if .Values.secrets.mirrorUsers }} mirror-puller mirror-pusher{{ end }}{{ end -}}
{{- end -}}
{{- end -}}

{{- /* What node-agent asks for: [CHILD]@DIGEST below the repository in force, or nothing. */ -}}
{{- define "probedImage" -}}
{{- $own := "registry.d8-system.svc:5001/system/deckhouse" -}}
{{- if .Values.nodeAgent.image -}}
  {{- if not (contains "@" .Values.nodeAgent.image) }}{{ fail "nodeAgent.image is not [CHILD]@sha256:DIGEST" }}{{ end -}}
  {{- .Values.nodeAgent.image -}}
{{- else if and (regexMatch (printf "^%s[/:@]" $own) .Values.image.reference) (contains "@sha256:" .Values.image.reference) -}}
  {{- /* A tag before the digest says nothing. */ -}}
  {{- $parts := splitList "@" (trimPrefix $own .Values.image.reference) -}}
  {{- printf "%s@%s" (first $parts | trimPrefix "/" | splitList ":" | first) (last $parts) -}}
{{- end -}}
{{- end -}}

{{- define "pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* What the bootstrap of the cluster has given to nodes, Secret registry-init, as JSON; {} where there was none. */ -}}
{{- define "registryInit" -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace "registry-init" | default dict -}}
{{- $read := index ($secret.data | default dict) "config" | default "" | b64dec | fromYaml | default dict -}}
{{- /* fromYaml of helm says by a key that it was none; what is wrong may show a secret. */ -}}
{{- if hasKey $read "Error" -}}
  {{- fail "the key config of Secret registry-init is no YAML: nodes trust the authority in it, and with another one nothing would pull. Mend the Secret, or delete it if no node has that authority" -}}
{{- end -}}
{{- $read | toJson -}}
{{- end -}}

{{- /* The data of registry-pki: what is in the cluster, else what this release makes; made once for all templates. */ -}}
{{- define "authority" -}}
{{- if not (hasKey .Values "madeAuthority") -}}
  {{- $data := dict -}}
  {{- $present := lookup "v1" "Secret" .Release.Namespace "registry-pki" -}}
  {{- if $present -}}
    {{- $data = $present.data -}}
    {{- $trusted := lookup "v1" "ConfigMap" .Release.Namespace "registry-ca" -}}
    {{- if and (include "controlled" .) $trusted (not (contains (index $data "ca.crt" | b64dec | trim) (index ($trusted.data | default dict) "ca.crt" | default ""))) -}}
      {{- fail "the Secret registry-pki has another authority than the ConfigMap registry-ca, which nodes trust: with certificates of the new one nothing would pull. Put the Secret back from a copy; only if no node has the old one delete the ConfigMap" -}}
    {{- end -}}
  {{- else if .Values.secrets.create -}}
    {{- if and (include "controlled" .) (lookup "v1" "ConfigMap" .Release.Namespace "registry-ca") -}}
      {{- fail "the Secret registry-pki is gone, and nodes trust its authority (ConfigMap registry-ca): with another one nothing would pull. Put the Secret back from a copy; only if no node has that authority delete the ConfigMap" -}}
    {{- end -}}
    {{- /* As Deckhouse has them: an authority with an EC key for ten years, RSA-2048 for tokens. */ -}}
    {{- $authority := dict -}}
    {{- with dig "ca" dict (include "registryInit" . | fromJson) -}}
      {{- $authority = buildCustomCert (.cert | b64enc) (.key | b64enc) -}}
    {{- else -}}
      {{- $authority = genCAWithKey "registry-ca" 3650 (genPrivateKey "ecdsa") -}}
    {{- end -}}
    {{- $token := genSignedCert "registry-auth" nil (list "localhost") 3649 $authority -}}
    {{- $data = dict "ca.crt" ($authority.Cert | b64enc) "ca.key" ($authority.Key | b64enc) "token.crt" ($token.Cert | b64enc) "token.key" ($token.Key | b64enc) -}}
  {{- end -}}
  {{- $_ := set .Values "madeAuthority" $data -}}
{{- end -}}
{{- .Values.madeAuthority | toJson -}}
{{- end -}}

{{- /* On pods that have a certificate issued: another authority makes them anew at the next upgrade. */ -}}
{{- define "authorityChecksum" -}}
{{- with index (include "authority" . | fromJson) "ca.crt" -}}
registry.deckhouse.io/authority-checksum: {{ . | sha256sum }}
{{- end -}}
{{- end -}}
