#!/usr/bin/env bash
# promtool judges the alerts: each fires for its fault and stays silent for what is near it.
source "$(dirname "$0")/harness.sh"

need promtool
readonly PYTHON=$JUDGES_TOOLS/../venv/bin/python MONITORING=$JUDGES_SCRIPTS/../../deploy/monitoring
[[ -x $PYTHON ]] || skip "can't get the Python environment"

# promtool knows groups, not the PrometheusRule around them.
groups() {
    "$PYTHON" -c 'import sys, yaml; yaml.safe_dump(yaml.safe_load(sys.stdin)["spec"], sys.stdout)' >"$WORK/rules.groups.yaml"
}
cp "$MONITORING/alerts.test.yaml" "$WORK"
cd "$WORK"
groups <"$MONITORING/rules.yaml"
promtool check rules --lint=all --lint-fatal rules.groups.yaml
promtool test rules alerts.test.yaml

say "a test fails for an alert that is made blind, and for one that is made blunt"
blind() {
    sed "$1" "$MONITORING/rules.yaml" >wrong.yaml
    ! cmp -s wrong.yaml "$MONITORING/rules.yaml" || fail "nothing to change: $1"
    groups <wrong.yaml
    ! promtool test rules alerts.test.yaml >/dev/null 2>&1 || fail "no test fails for $1"
}
blind 's/outcome="auth"}/outcome="aut"}/'
blind 's/outcome=~"unreachable|notFound"/outcome=~"notFound"/'
blind 's/outcome=~"ok|auth"/outcome="none"/'
blind 's/store_writable{job="d8-registry"} == 0/store_writable{job="d8-registry"} == 2/'
blind 's/> 0.85/> 0.95/'
blind 's/< 1.1 \*/< 0.9 */'
blind 's/cause="full"/cause="disk"/'
blind 's/14 \* 86400/12 * 86400/'
blind 's/14 \* 86400/16 * 86400/'
blind 's/^\( *\)> 0.8$/\1> 0.2/'
blind 's/\[1h\])) > 100/[1h])) > 1/'
blind 's/> 0.05$/> 0.001/'
blind 's/for: 6h/for: 30m/'
blind 's/config_valid{job="d8-registry"} == 0/config_valid{job="d8-registry"} == 2/'
blind 's/up{job="d8-registry"} == 0/up == 0/'
