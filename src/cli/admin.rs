//! `admin`: asks a running server over the socket in its data directory, and gives it orders.

use std::io::{self, Write as _};
use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use super::{Failure, StoreArguments};
use crate::admin::{Answer, ask as ask_server, socket_path};

/// What a running server can be asked and told.
#[derive(Clone, Debug, Subcommand)]
pub enum AdminCommand {
    /// Show how the server is, as JSON: what `/status` shows, with the errors of jobs.
    #[command(after_help = "Example:\n  d8-registry admin status --data-dir /var/lib/d8-registry")]
    Status(StoreArguments),
    /// List what works beside requests: when, whether it runs, and what its last run came to.
    #[command(after_help = "Example:\n  d8-registry admin jobs --data-dir /var/lib/d8-registry")]
    Jobs(StoreArguments),
    /// Have a job run now, wait for its end, and say what it came to; ends with 1 if the run failed.
    #[command(after_help = "Example:\n  d8-registry admin run eviction --data-dir /var/lib/d8-registry")]
    Run {
        /// The job's name, as `admin jobs` lists it.
        #[arg(value_name = "NAME", value_parser = job_name)]
        name: String,
        /// Where the server's store is.
        #[command(flatten)]
        folder: StoreArguments,
    },
    /// Have the configuration read again, as SIGHUP does, and say whether it is in force.
    #[command(after_help = "Example:\n  d8-registry admin reload --config /etc/d8-registry/config.yaml")]
    Reload(StoreArguments),
}

/// A name that can stand in a path as it is.
fn job_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if is_name { Ok(text.to_owned()) } else { Err("a job's name has lower-case letters and hyphens".to_owned()) }
}

pub(super) fn run(command: &AdminCommand) -> Result<(), Failure> {
    match command {
        AdminCommand::Status(arguments) => {
            let text = ask(arguments, "GET", "/status")?;
            Ok(writeln!(io::stdout(), "{text}")?)
        }
        AdminCommand::Jobs(arguments) => list(&json(&ask(arguments, "GET", "/jobs")?)?),
        AdminCommand::Run { name, folder } => report(&json(&ask(folder, "POST", &format!("/jobs/{name}/run"))?)?),
        AdminCommand::Reload(arguments) => report(&json(&ask(arguments, "POST", "/reload")?)?),
    }
}

pub(super) fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::failed(&error))
}

/// A line a job.
fn list(jobs: &Value) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for job in jobs.as_array().into_iter().flatten() {
        let text = |key: &str| job[key].as_str().unwrap_or_default();
        let (name, schedule) = (text("name"), text("schedule"));
        writeln!(out, "{name:18} {schedule:12} {}", state(job))?;
    }
    Ok(out.flush()?)
}

fn state(job: &Value) -> String {
    let progress = &job["progress"];
    match (job["running"].as_bool(), job["lastResult"].as_str()) {
        (Some(true), _) => match (progress["done"].as_u64(), progress["total"].as_u64()) {
            (Some(done), Some(total)) => format!("running, {done} of {total}"),
            (Some(done), None) => format!("running, {done}"),
            (None, _) => "running".to_owned(),
        },
        (_, None) => "has not run".to_owned(),
        (_, Some("ok")) => "ok".to_owned(),
        (_, Some(result)) => format!("{result}: {}", job["lastError"]["message"].as_str().unwrap_or("unknown")),
    }
}

/// What a run came to.
fn report(run: &Value) -> Result<(), Failure> {
    let text = |key: &str| run[key].as_str().unwrap_or_default();
    let (job, result) = (text("job"), text("result"));
    if result != "ok" {
        return Err(Failure { exit: super::EXIT_FAILED, message: format!("{job} {result}: {}", text("error")) });
    }
    Ok(writeln!(io::stdout(), "{job}: ok in {} ms", run["millis"])?)
}

/// One request to the server of the data directory; the body of its answer.
pub(super) fn ask(arguments: &StoreArguments, method: &str, path: &str) -> Result<String, Failure> {
    let socket = socket_path(&arguments.dir()?);
    answered(ask_server(&socket, method, path, b"", None).map_err(|error| silent(&socket, &error))?)
}

/// As [`ask`], of the server of `folder`; `None` if there is none.
pub(super) fn ask_if_there(folder: &Path, method: &str, path: &str) -> Result<Option<String>, Failure> {
    ask_with(folder, method, path, b"")
}

/// As [`ask_if_there`], with a body.
pub(super) fn ask_with(folder: &Path, method: &str, path: &str, body: &[u8]) -> Result<Option<String>, Failure> {
    let socket = socket_path(folder);
    match ask_server(&socket, method, path, body, None) {
        Ok(answer) => answered(answer).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(silent(&socket, &error)),
    }
}

fn silent(socket: &Path, error: &io::Error) -> Failure {
    failed(format!("no server answers at {}: {error}", socket.display()))
}

fn failed(message: String) -> Failure {
    Failure { exit: super::EXIT_FAILED, message }
}

fn answered(Answer { status, body }: Answer) -> Result<String, Failure> {
    let body = String::from_utf8_lossy(&body).trim_end().to_owned();
    if status == 200 { Ok(body) } else { Err(failed(format!("the server answers {status}: {body}"))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_s_state_is_one_line() {
        let state = |job: Value| state(&job);
        assert_eq!(state(json!({ "running": false })), "has not run");
        assert_eq!(state(json!({ "running": false, "lastResult": "ok" })), "ok");
        assert_eq!(
            state(json!({ "running": true, "lastResult": "ok", "progress": { "done": 3, "total": 9 } })),
            "running, 3 of 9"
        );
        let failed =
            json!({ "running": false, "lastResult": "failed", "lastError": { "at": 1, "message": "no room" } });
        assert_eq!(state(failed), "failed: no room");
    }

    #[test]
    fn names_stand_in_a_path_as_they_are() {
        assert_eq!(job_name("store-maintenance").as_deref(), Ok("store-maintenance"));
        for wrong in ["", "a/b", "a?b", "A", "a b", "%61"] {
            assert!(job_name(wrong).is_err(), "{wrong}");
        }
    }
}
