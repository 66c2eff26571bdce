//! The controller against a real API server, with real servers behind it.
//!
//! Started by `tests/interop/cluster.sh`, in a network of its own: addresses are those of masters, all on loopback. Nodes,
//! bashible, kubelets and Deckhouse are played by the test (`roles`), which answers each write of the controller as they
//! would; clients pull all the time as containerd does (`pulls`). By itself (`cargo test`) it has nothing to test with.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test, though without the usual harness"
)]

mod api;
mod calls;
mod cases;
mod first;
mod gate;
mod kills;
mod masters;
mod objects;
mod pairs;
mod people;
mod processes;
mod pulls;
mod release;
mod repairs;
mod roles;
mod said;
mod seen;
mod skipping;
mod undo;
mod upstream;
mod wanted;
mod world;

use std::process::ExitCode;
use std::time::Instant;

/// Where the binary made of tests/tools/kube is.
const KUBE: &str = "KUBE";

/// Those that run only where they are named, all together.
const LONG: &str = "long";

fn is_meant(part: &str, name: &str, case: &cases::Case) -> bool {
    if part == LONG { !case.by_default } else { name.contains(part) }
}

fn main() -> ExitCode {
    if std::env::var_os(KUBE).is_none() {
        println!("cluster: no API server here; tests/interop/run.sh cluster has one");
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = Vec::new();
    let mut run = 0;
    for (name, case) in cases::ALL {
        let is_wanted =
            if wanted.is_empty() { case.by_default } else { wanted.iter().any(|part| is_meant(part, name, case)) };
        if !is_wanted {
            continue;
        }
        run += 1;
        let begin = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on((case.run)())));
        drop(runtime);
        let word = if ended.is_ok() { "ok" } else { "FAILED" };
        println!("case {name} ... {word} ({:.1} s)", begin.elapsed().as_secs_f64());
        if ended.is_err() {
            failed.push(name);
        }
    }
    println!("cluster: {run} cases, {} failed {failed:?}", failed.len());
    if failed.is_empty() && run > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
