//! The binary: hands the command line to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = crash_points();
    d8_registry::cli::run()
}

/// Puts the crash points of the environment's `FAILPOINTS` into force. One that is set to `pause` says so in the log before
/// it does: a test kills the process then.
#[cfg(feature = "failpoints")]
fn crash_points() -> fail::FailScenario<'static> {
    let scenario = fail::FailScenario::setup();
    for (point, actions) in fail::list() {
        if actions == "pause" {
            let name = point.clone();
            let paused = fail::cfg_callback(point, move || {
                tracing::warn!(point = name, "paused");
                loop {
                    std::thread::park();
                }
            });
            if let Err(error) = paused {
                tracing::error!(error, "a crash point can't be set");
            }
        }
    }
    scenario
}
