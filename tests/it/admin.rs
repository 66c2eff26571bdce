//! What is asked of a running server and ordered: the admin and probe listeners, which only read, and `admin.sock`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use d8_registry::admin::{ADMIN_PATHS, PROBE_PATHS, SOCKET_PATHS};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{HASH_OF_SECRET, Image, Registry, Setup, is_root, within};

fn socket(registry: &Registry) -> PathBuf {
    registry.data().join("admin.sock")
}

/// `d8-registry admin` for a data directory.
fn admin(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.arg("admin").args(words).arg("--data-dir").arg(data).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command that did its work says.
fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What one says that did not.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// The jobs that docs/RUNBOOK.md has a row of, in the order of their names.
fn jobs_of_the_runbook() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/RUNBOOK.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| job |")).skip(2);
    let cells = rows.map_while(|line| line.strip_prefix("| ")?.split_once(" | ")).map(|(cell, _)| cell);
    let mut names: Vec<String> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    names.sort_unstable();
    names
}

fn warned(log: &[Value]) -> bool {
    log.iter().any(|line| line["message"] == "no orders can be given: there is no admin socket")
}

#[tokio::test]
async fn jobs_are_listed_run_by_order_and_counted() {
    let registry = Registry::start(&Setup::with_tls());
    let list = said(&admin(&registry.data(), &["jobs"]));
    let mut names: Vec<&str> = list.lines().map(|line| line.split(' ').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, jobs_of_the_runbook());
    assert!(
        list.lines().any(|line| line.starts_with("eviction ") && line.ends_with("every 5m     has not run")),
        "{list}"
    );
    let run = said(&admin(&registry.data(), &["run", "eviction"]));
    assert!(run.starts_with("eviction: ok in "), "{run}");
    registry.until_metric("d8_registry_job_runs_total{name=\"eviction\",result=\"ok\"}", 1.0).await;
    assert!(registry.metric("d8_registry_job_last_success_timestamp_seconds{name=\"eviction\"}").await > 0.0);
    let status: Value = serde_json::from_str(&said(&admin(&registry.data(), &["status"]))).unwrap();
    let job = status["jobs"].as_array().unwrap().iter().find(|job| job["name"] == "eviction").unwrap();
    assert_eq!(
        (&job["lastResult"], &job["runs"]["ok"], &job["schedule"]),
        (&"ok".into(), &1.into(), &"every 5m".into())
    );
    let unknown = refused(&admin(&registry.data(), &["run", "nothing"]));
    assert!(unknown.contains("404") && unknown.contains("there is no job \"nothing\""), "{unknown}");
    let log = registry.stop();
    assert!(log.iter().any(|line| line["message"] == "a job is ordered" && line["job"] == "eviction"));
}

#[tokio::test]
async fn a_reload_by_order_says_what_became_of_it() {
    let registry = Registry::start(&Setup::with_users());
    let config = fs::read_to_string(registry.config_file()).unwrap();
    let user = format!("  users:\n    - {{ name: new, role: rw, passwordHash: '{HASH_OF_SECRET}' }}\n");
    fs::write(registry.config_file(), config.replace("  users:\n", &user)).unwrap();
    assert!(said(&admin(&registry.data(), &["reload"])).starts_with("reload: ok in "));
    let client = registry.client_as("new");
    assert_eq!(client.get("/v2/").await.status(), 200, "what was answered is in force");
    fs::write(registry.config_file(), "listen: [nonsense").unwrap();
    let refused = refused(&admin(&registry.data(), &["reload"]));
    assert!(refused.contains("reload failed: ") && refused.contains("config.yaml"), "{refused}");
    assert_eq!(client.get("/v2/").await.status(), 200);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!(status["config"]["valid"], false);
    fs::write(registry.config_file(), &config).unwrap();
    said(&admin(&registry.data(), &["reload"]));
    assert_eq!(client.get("/v2/").await.status(), 401);
    registry.stop();
}

/// One request on a connection of its own: the answer's status and its `Allow`.
async fn ask(address: &str, method: &str, path: &str) -> (u16, Option<String>) {
    within(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = text(&answer);
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let allow = answer.lines().find_map(|line| line.strip_prefix("allow: "));
        (status, allow.map(str::to_owned))
    })
    .await
}

#[tokio::test]
async fn over_tcp_nothing_but_get_and_head_is_answered() {
    let registry = Registry::start(&Setup::open().config("probeListen: 127.0.0.1:0"));
    let (admin, probe) = (registry.admin_address(), registry.probe_address());
    let all = [PROBE_PATHS, ADMIN_PATHS, SOCKET_PATHS, &["/jobs/reload/run", "/", "/v2/"]].concat();
    for (address, served) in [(admin, [PROBE_PATHS, ADMIN_PATHS].concat()), (probe, PROBE_PATHS.to_vec())] {
        for path in &all {
            let status = if served.contains(path) { 200 } else { 404 };
            let path = &*path.replace("{name}", "eviction");
            for method in ["GET", "HEAD"] {
                assert_eq!(ask(address, method, path).await, (status, None), "{method} {path}");
            }
            for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "RUN"] {
                // What CONNECT asks for is a host.
                let path = if method == "CONNECT" { "test:80" } else { path };
                let answer = ask(address, method, path).await;
                assert_eq!(answer, (405, Some("GET, HEAD".to_owned())), "{method} {path}");
            }
        }
    }
    assert_eq!(registry.metric("d8_registry_job_runs_total{name=\"eviction\",result=\"ok\"}").await, 0.0);
    registry.stop();
}

#[tokio::test]
async fn the_socket_is_one_user_s_and_goes_at_the_end() {
    let registry = Registry::start(&Setup::open());
    let found = fs::symlink_metadata(socket(&registry)).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.mode() & 0o777, found.uid()), (0o600, rustix::process::geteuid().as_raw()));
    let (folder, data) = (registry.folder(), registry.data());
    let log = registry.stop();
    assert!(!warned(&log));
    assert!(!data.join("admin.sock").exists());
    let nobody = refused(&admin(&data, &["jobs"]));
    assert!(nobody.contains("no server answers at ") && nobody.contains("admin.sock"), "{nobody}");
    drop(folder);
}

#[tokio::test]
async fn a_killed_server_s_socket_is_replaced_and_a_running_one_s_is_not() {
    let registry = Registry::start(&Setup::open());
    let (folder, data) = (registry.folder(), registry.data());
    let inode = |data: &Path| fs::symlink_metadata(data.join("admin.sock")).unwrap().ino();
    let first = inode(&data);
    let second = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(refused(&second).contains("another d8-registry is using"));
    assert_eq!(inode(&data), first);
    said(&admin(&data, &["jobs"]));
    registry.kill();
    assert!(fs::symlink_metadata(data.join("admin.sock")).is_ok(), "nobody removed it");
    refused(&admin(&data, &["jobs"]));
    let registry = Registry::start_in(folder, &Setup::open());
    said(&admin(&data, &["jobs"]));
    assert!(!warned(&registry.stop()));
}

/// As the kubelet starts it, when the pod of before has yet to end.
#[tokio::test]
async fn a_server_that_comes_after_another_waits_for_the_store() {
    let registry = Registry::start(&Setup::open());
    let (folder, data) = (registry.folder(), registry.data());
    let addresses =
        ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--wait-for-store", "1h", "--data-dir"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    let mut second = command.arg("serve").args(addresses).arg(&data).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(second.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("waiting for its end")));
    // Nothing of the first one is touched.
    registry.client().push_image("a", "v1", &Image::of(1)).await;
    registry.stop();
    assert!(said.any(|line| line.contains("\"listening\"")), "it begins when the first has ended");
    rustix::process::kill_process(rustix::process::Pid::from_child(&second), rustix::process::Signal::TERM).unwrap();
    assert!(second.wait().unwrap().success());
    drop(folder);
}

#[tokio::test]
async fn a_server_that_can_have_no_socket_serves_with_a_warning() {
    let base = TempDir::new().unwrap();
    // 108 bytes with the socket's name: one more than an address holds.
    let long = 108 - base.path().as_os_str().len() - "//admin.sock".len();
    let data = base.path().join("d".repeat(long));
    let store = format!("store: {{ dir: {}, reserveBytes: 0 }}", data.display());
    let registry = Registry::start(&Setup::open().config(&store));
    assert_eq!(registry.client().get("/v2/").await.status(), 200);
    assert!(warned(&registry.logged()));
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    let warnings = status["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("no admin socket"), "{warnings:?}");
    // What somebody else put there is left alone.
    registry.kill();
    let folder = Arc::new(TempDir::new().unwrap());
    let data = folder.path().join("data");
    Registry::start_in(Arc::clone(&folder), &Setup::open()).stop();
    fs::write(data.join("admin.sock"), "mine").unwrap();
    let registry = Registry::start_in(folder, &Setup::open());
    assert_eq!(registry.client().get("/v2/").await.status(), 200);
    assert!(warned(&registry.logged()));
    assert_eq!(fs::read(data.join("admin.sock")).unwrap(), b"mine");
    registry.kill();
}

#[tokio::test]
async fn another_user_gets_no_answer_even_where_the_file_lets_it_in() {
    if !is_root("a client of another user") {
        return;
    }
    let registry = Registry::start(&Setup::open());
    let (folder, data) = (registry.folder(), registry.data());
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(folder.path(), 0o755);
    open(&data, 0o755);
    open(&socket(&registry), 0o666);
    // The binary may lie where others can't look.
    let binary = folder.path().join("d8-registry");
    fs::copy(env!("CARGO_BIN_EXE_d8-registry"), &binary).unwrap();
    open(&binary, 0o755);
    let ask = |user: u32| {
        let mut command = Command::new(&binary);
        command.args(["admin", "jobs", "--data-dir"]).arg(&data).current_dir("/").uid(user).output().unwrap()
    };
    said(&ask(0));
    refused(&ask(65534));
    let log = registry.stop();
    let line = log.iter().find(|line| line["level"] == "WARN" && line["uid"] == 65534);
    assert!(line.is_some(), "{log:?}");
}
