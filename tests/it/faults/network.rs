//! The masters' networks: a cable from each to the test's own network, which passes on what is for the others.

use std::process::{Command, Stdio};

/// One of ten packets.
pub(super) const LOSS: &str = "-m statistic --mode random --probability 0.1 -j DROP";

/// All of them.
pub(super) const CUT: &str = "-j DROP";

/// Slow enough to be felt.
const RATE: &str = "rate 20mbit burst 32kb latency 100ms";

/// Runs a line in the test's own network; gives whether it succeeded.
fn tried(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).stderr(Stdio::null()).status().unwrap().success()
}

pub(super) fn sh(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(super) fn address(master: usize) -> String {
    format!("10.77.{master}.1")
}

/// Makes the test's own network pass on what comes, with one for each master.
pub(super) fn make(masters: usize) {
    sh(
        "ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_forward && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns",
    );
    (0..masters).for_each(make_one);
}

/// A network for a master, at the other end of a cable.
fn make_one(master: usize) {
    let (own, other, at) = (format!("m{master}"), format!("10.77.{master}.254"), address(master));
    sh(&format!(
        "ip netns add {own} && ip link add name {own} type veth peer name eth0 netns {own} && \
         ip address add {other}/24 dev {own} && ip link set {own} up && ip -n {own} link set lo up && \
         ip -n {own} address add {at}/24 dev eth0 && ip -n {own} link set eth0 up && ip -n {own} route add default via {other}"
    ));
}

/// Becomes a program in a master's network; mounts stay the test's own. A line for a shell, without the program.
pub(super) fn inside(master: usize) -> String {
    format!("exec nsenter --net=/run/netns/m{master}")
}

/// Adds a rule for what goes between a master and the others (`-A`), or deletes it (`-D`).
pub(super) fn between(master: usize, how: &str, rule: &str) {
    let at = address(master);
    sh(&format!("iptables {how} FORWARD -s {at} {rule} && iptables {how} FORWARD -d {at} {rule}"));
}

/// The same for what goes between any two.
pub(super) fn between_all(how: &str) {
    sh(&format!("iptables {how} FORWARD {CUT}"));
}

pub(super) fn slow_down(master: usize) {
    let delayed = tried(&format!("tc qdisc add dev m{master} root netem delay 30ms 20ms"));
    assert!(delayed || tried(&format!("tc qdisc add dev m{master} root tbf {RATE}")));
}

pub(super) fn speed_up(master: usize) {
    sh(&format!("tc qdisc del dev m{master} root"));
}
