#!/usr/bin/env bash
# promtool tests the alerts: each fires for its fault and stays silent for what is near it.
source "$(dirname "$0")/harness.sh"

need promtool
readonly PYTHON=$INTEROP_TOOLS/../venv/bin/python MONITORING=$INTEROP_SCRIPTS/../../deploy/monitoring
[[ -x $PYTHON ]] || skip "can't get the Python environment"

# promtool knows groups, not the PrometheusRule around them.
groups() {
    "$PYTHON" -c 'import sys, yaml; yaml.safe_dump(yaml.safe_load(sys.stdin)["spec"], sys.stdout)' >"$WORK/rules.groups.yaml"
}
cp "$MONITORING"/*.test.yaml "$WORK"
cd "$WORK"
groups <"$MONITORING/rules.yaml"
promtool check rules --lint=all --lint-fatal rules.groups.yaml
promtool test rules ./*.test.yaml

say "Deckhouse's Prometheus loads the rules: its ruleSelector"
same "$("$PYTHON" -c 'import sys, yaml
labels = yaml.safe_load(sys.stdin)["metadata"]["labels"]
print(labels.get("prometheus"), labels.get("component"))' <"$MONITORING/rules.yaml")" "main rules" "labels prometheus and component"

say "a test fails for an alert that is made blind, and for one that is made blunt"
# spoilt [ALERT CHANGE]... changes rules of different alerts; a test of each has to fail.
spoilt() {
    local alerts=() changes=()
    while (($#)); do
        alerts+=("$1") changes+=(-e "$2")
        sed -e "$2" "$MONITORING/rules.yaml" >one.yaml
        ! cmp -s one.yaml "$MONITORING/rules.yaml" || fail "nothing to change: $2"
        shift 2
    done
    sed "${changes[@]}" "$MONITORING/rules.yaml" >wrong.yaml
    groups <wrong.yaml
    ! promtool test rules ./*.test.yaml >found 2>&1 || fail "no test fails"
    local alert
    for alert in "${alerts[@]}"; do
        grep -q "alertname: D8Registry$alert," found || fail "no test fails for $alert: $(cat found)"
    done
}
spoilt InstanceDown 's/up{job="d8-registry"} == 0/up == 0/' \
    NoTargets 's/absent(up{job="d8-registry"})/absent(up)/' \
    UpstreamUnreachable 's/outcome=~"unreachable|notFound"/outcome=~"notFound"/' \
    UpstreamCredentialsRefused 's/outcome="auth"}/outcome="aut"}/' \
    WritesRefused 's/store_writable{job="d8-registry"} == 0/store_writable{job="d8-registry"} == 2/' \
    PushesRefused 's/\[10m\])) > 0/[10m])) > 5/' \
    StoreNearlyFull 's/> 0.85/> 0.95/' \
    CertificateExpiring 's/14 \* 86400/12 * 86400/' \
    HitRatioFallen 's/^\( *\)> 0.8$/\1> 0.2/' \
    ErrorsToClients 's/> 0.05$/> 0.001/' \
    StaleAnswers 's/for: 6h/for: 30m/' \
    ConfigInvalid 's/config_valid{job="d8-registry"} == 0/config_valid{job="d8-registry"} == 2/' \
    ModeFileInvalid 's/mode_file_valid{job="d8-registry"} == 0/mode_file_valid{job="d8-registry"} == 2/' \
    NodeProxyWaiting 's/for: 1h/for: 2h/' \
    NodeProxyNotAnswering 's/up{job="d8-registry-node-proxy"} == 0/up{job="d8-registry-node-proxy"} == 2/' \
    NodePullFailing 's/min by (job, instance, node) (d8_registry_node_agent_pull_ok/max by (job, instance, node) (d8_registry_node_agent_pull_ok/' \
    NodeConfigNotFollowed 's/node_agent_problem{job="d8-registry-node-agent"}) == 1/node_agent_problem{job="d8-registry-node-agent"}) == 2/' \
    JobFailing 's/result=~"failed|panicked"/result="panicked"/' \
    RemovalsWait 's/for: 8d/for: 9d/'
spoilt InstanceDown 's/up{job="d8-registry"} == 0/up{job="d8-registry"} == 2/' \
    NoTargets 's/absent(up{job="d8-registry"})/absent(up{job="d8-registry"} == 1)/' \
    UpstreamUnreachable 's/outcome=~"ok|auth"/outcome="none"/' \
    UpstreamCredentialsRefused 's/max by (job, instance) (process_start_time_seconds/max by (job) (process_start_time_seconds/' \
    StoreNearlyFull 's/< 1.1 \*/< 0.9 */' \
    CertificateExpiring 's/14 \* 86400/16 * 86400/' \
    HitRatioFallen 's/\[1h\])) > 100/[1h])) > 1/' \
    NodeProxyWaiting 's/listening{job="d8-registry-node-proxy"} == 0/listening == 0/' \
    NodePullFailing 's/pull_ok{job="d8-registry-node-agent", check!="node_proxy"}/pull_ok{check!="node_proxy"}/' \
    NodeProxyNotAnswering 's/, check="node_proxy"}) == 0/}) == 0/' \
    NodeConfigNotFollowed 's/for: 15m/for: 5m/' \
    StaleAnswers 's/for: 6h/for: 12h/' \
    RemovalsWait 's/for: 8d/for: 6d/'
spoilt NodePullFailing 's/, check!="node_proxy"}/}/' NodeConfigNotFollowed 's/node_agent_wanted{job="d8-registry-node-agent"} == 0/node_agent_wanted{job="d8-registry-node-agent"} == 2/' \
    StoreNearlyFull 's/cause="full"/cause="disk"/' UpstreamCredentialsRefused 's/outcome="ok"}/outcome="o"}/' \
    ErrorsToClients 's/route!~"base|token|other"/route!~"token|other"/' \
    StaleAnswers 's/\[1h\])) > 0/[10m])) > 0/' \
    JobFailing 's/name!="reload", //' \
    ExpectedImagesMissing 's/expected_missing_images{job="d8-registry"} > 0/expected_missing_images{job="d8-registry"} > 5/' \
    ExpectedUnusable 's/expected_usable{job="d8-registry"} == 0/expected_usable{job="d8-registry"} == 2/'
spoilt ExpectedImagesMissing 's/and on (job, instance, mode) d8_registry_build_info/and on (job, instance) d8_registry_build_info/'
spoilt ErrorsToClients 's/route!~"base|token|other"/route!~"base|token"/' \
    StoreNearlyFull 's/d8_registry_build_info{job="d8-registry", mode="Local"}/d8_registry_build_info{job="d8-registry"}/' \
    SwitchNoController 's/d8_registry_switch_leader{job="d8-registry-controller"}) == 1/d8_registry_switch_leader) >= 0/' \
    SwitchStuck 's/> 3600/> 7200/' \
    SwitchHeld 's/reason!="module"}) == 1/reason!="module"}) == 2/' \
    SwitchBlocked 's/state="not_ready"/state="gone"/' \
    SwitchNotConverged 's/waiting|skipped/waiting/' \
    SwitchOutputEdited 's/\[30m\])) > 0/[30m])) > 5/' \
    SwitchInputLost 's/switch_input_lost{job="d8-registry-controller"}) == 1/switch_input_lost) == 2/'
spoilt SwitchNoController 's/\[6h\]/[1m]/' \
    SwitchStuck 's/> 3600/> 1800/' \
    SwitchHeld 's/reason!="module"/reason!="x"/' \
    SwitchBlocked 's/type="Ready", status="False"} == 1/type="Ready"} == 1/' \
    SwitchNotConverged 's/for: 1h/for: 20m/' \
    SwitchNodeSlow 's/) == 1/) >= 0/' \
    SwitchOutputEdited 's/increase(d8_registry_switch_output_repairs_total{job="d8-registry-controller"}\[30m\])/d8_registry_switch_output_repairs_total/' \
    SwitchInputLost 's/switch_input_lost{job="d8-registry-controller"}) == 1/switch_input_lost) >= 0/'
